from dataclasses import replace

import pytest

from models.errors import UserError
from models.recipes import Augmentation
from models.recipes.parse import load_recipe, recipe_names, to_toml
from models.zoo import NETWORKS

OWN = """\
name = "own"
summary = "mine"
network = "cnn-small"
epochs = 2
batch_size = 64
optimizer = "sgd"
learning_rate = 0.1
"""


def write(tmp_path, text):
    path = tmp_path / "own.toml"
    path.write_text(text)
    return str(path)


def test_every_published_recipe_names_a_network_of_the_zoo() -> None:
    assert recipe_names() == ["adam", "bn", "fast", "fast-94", "sam", "small", "vgg", "vgg-sgd"]
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.network in NETWORKS
        assert NETWORKS[recipe.network].name in {"cnn-small", "cnn-sam", "cnn-bn", "cnn-vgg", "cnn-fast"}


def test_recipes_have_the_published_settings() -> None:
    adam, vgg, sam = (load_recipe(name) for name in ("adam", "vgg", "sam"))
    assert (adam.optimizer, adam.learning_rate, adam.epochs, adam.batch_size) == ("adam", 0.001, 12, 64)
    assert (vgg.optimizer, vgg.batch_size, vgg.epochs, vgg.validation) == ("adam", 32, 50, 0.1)
    assert vgg.augmentation == Augmentation(rotation=20, shift=0.2, flip=True, share=0.3)
    assert vgg.patience
    assert vgg.schedule == "plateau"
    assert sam.rho
    assert (NETWORKS[sam.network].mean, NETWORKS[sam.network].std) == (0.5, 0.5)
    assert all(vars(load_recipe("bn").augmentation).values())


@pytest.mark.parametrize("name", ["adam", "bn", "fast", "fast-94", "sam", "small", "vgg", "vgg-sgd"])
def test_a_written_recipe_is_read_back_unchanged(tmp_path, name) -> None:
    assert load_recipe(write(tmp_path, to_toml(load_recipe(name), "a comment"))) == load_recipe(name)


def test_a_written_text_with_special_characters_is_read_back_unchanged(tmp_path) -> None:
    odd = replace(load_recipe("adam"), summary='two\nlines, "quoted", \\ and 😀')
    assert load_recipe(write(tmp_path, to_toml(odd, "c"))) == odd


@pytest.mark.parametrize(("change", "message"), [
    (lambda text: text + "epoch = 3\n", "line 8: unknown key 'epoch' of a recipe; allowed: name, summary"),
    (lambda text: text.replace("epochs = 2", "epochs = 0"), "line 4: epochs is 0; allowed: whole numbers from 1"),
    (lambda text: text.replace("epochs = 2", "epochs = true"), "line 4: epochs is True"),
    (lambda text: text.replace("0.1", "nan"), "line 7: learning_rate is nan; allowed: numbers from 0 to 100"),
    (lambda text: text.replace("sgd", "lion"), "line 6: optimizer is 'lion'; allowed: adam, sgd"),
    (lambda text: text.replace('network = "cnn-small"\n', ""), "the key 'network' of a recipe is missing"),
    (lambda text: text.replace("cnn-small", "cnn-huge"), "line 3: network is 'cnn-huge'; allowed: cnn-small"),
    (lambda text: text + "augmentation = { spin = 3 }\n", "unknown key 'spin' of an augmentation; allowed: rotation"),
    (lambda text: text + "augmentation = 3\n", "line 8: augmentation must be a table"),
    (lambda text: text + "patience = 2\n", "line 8: patience needs a validation loss: set validation"),
    (lambda text: text + 'schedule = "plateau"\n', 'line 8: schedule = "plateau" needs a validation loss'),
    (lambda text: text + "rho = -1\n", "line 8: rho is -1; allowed: numbers from 0 to 100"),
    (lambda text: text + "nesterov = true\n", 'line 8: nesterov = true needs optimizer = "sgd" and a momentum above 0'),
    (lambda text: text + "nesterov = 1\n", "line 8: nesterov is 1; allowed: true, false"),
    (lambda text: text + "warmup = 1\n", "line 8: warmup is 1; allowed: numbers from 0 to 0.9999"),
    (lambda text: text + "target = 91\n", "line 8: target is 91; allowed: numbers from 0 to 1"),
    (lambda text: text + "[", "not TOML"),
])  # fmt: skip
def test_an_invalid_value_is_refused_with_its_line(tmp_path, change, message) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(write(tmp_path, change(OWN)))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["no-such", "", "../x.toml", "x/y"])
def test_a_missing_recipe_is_refused(name) -> None:
    with pytest.raises(UserError, match=r"unknown recipe|can't be read"):
        load_recipe(name)
