import pytest

from models.errors import UserError
from models.spec import Conv2d, Dense, Flatten, MaxPool2d, ReLU
from models.weights import checkpoint_path, initial_weights, save_weights
from models.zoo import CNN_SMALL, NETWORKS, read_networks

MINE = """\
name = "mine"
summary = "one convolution"
mean = 0.25
std = 0.5
weights = "mine.safetensors"
layers = [
  { kind = "conv2d", filters = 4, kernel_size = 5 },
  { kind = "relu" },
  { kind = "maxpool2d" },
  { kind = "flatten" },
  { kind = "dense", units = 10 },
]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.safetensors").touch()
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path


def test_a_network_is_read_from_a_file(folder) -> None:
    (network,) = read_networks(folder).values()
    assert network.layers == (Conv2d(4, 5), ReLU(), MaxPool2d(2), Flatten(), Dense(10))
    assert (network.name, network.mean, network.std) == ("mine", 0.25, 0.5)
    assert checkpoint_path(network) == folder / "mine.safetensors"
    assert checkpoint_path(CNN_SMALL).parent != folder


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"mine"', '"Mine"', "line 1: name is 'Mine'; allowed: lower-case letters, digits and hyphens"),
        ('"mine"', '"cnn-small"', "line 1: there is another network cnn-small; choose another name"),
        ('"mine"', "7", "line 1: name is 7; allowed: a text"),
        ("summary", "sumary", "line 2: unknown key 'sumary'; allowed: name, summary, mean, std, weights, layers"),
        ("std = 0.5", "std = 0", "line 4: std is 0; allowed: any numbers from 0.001 to 10"),
        ("mine.safetensors", "none.safetensors", "is not there; name a .safetensors file, relative to this one"),
        ('"conv2d"', '"conv3d"', "line 6: layer 1 has the kind 'conv3d'; allowed: conv2d, relu,"),
        ("filters = 4", "filters = true", "line 6: filters is True; allowed: whole numbers from 1 to 4096"),
        ("filters = 4, ", "", "line 6: layer 1: a conv2d needs the key 'filters'"),
        ("kernel_size = 5", "kernel_size = 4", "line 6: kernel_size is 4; allowed: odd numbers from 1 to 27"),
        ("kernel_size", "stride", "line 6: layer 1: unknown key 'stride'; allowed: kind, filters, kernel_size"),
        ('{ kind = "flatten" },', "", "line 6: Dense(units=10) needs an input of 1 axes, not (14, 14, 4)"),
        ("units = 10", "units = 11", "line 6: the last layer's output has the shape (11,); allowed: (10,)"),
        ("layers = [", "layers = [[]]\nmean = [", "not TOML"),
    ],
)
def test_an_error_says_where_and_what_is_allowed(folder, old, new, message) -> None:
    (folder / "mine.toml").write_text(MINE.replace(old, new))
    with pytest.raises(UserError) as raised:
        read_networks(folder)
    assert message in str(raised.value)
    assert str(folder / "mine.toml") in str(raised.value) or "safetensors" in str(raised.value)


def test_two_networks_have_two_names(folder) -> None:
    (folder / "other.toml").write_text(MINE)
    with pytest.raises(UserError, match=r"other\.toml, line 1: there is another network mine"):
        read_networks(folder)


def test_a_network_of_ones_own_is_measured(bench, folder) -> None:
    network = read_networks(folder)["mine"]
    (folder / "nets").mkdir()
    save_weights(folder / "nets" / "mine.safetensors", initial_weights(network, 0), {})
    (folder / "suite.toml").write_text(
        'name = "mine"\nsummary = "a network"\nscenarios = ["latency"]\nmodels = ["mine"]\nbatch_sizes = [1]\n'
        'precisions = ["fp32"]\narms = ["oracle/numpy", "toy/good"]\nbaselines = ["oracle/numpy"]\n'
        'primary = ["toy/good"]\n'
    )
    (folder / "nets" / "mine.toml").write_text(MINE)
    options = ("--suite", "./suite.toml", "--preset", "smoke", "--data", "synthetic", "--name", "r", "--threads", "1")
    done = bench("run", *options, BENCH_MODELS="nets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mine/latency/b1" in (folder / "results" / "r" / "journal.jsonl").read_text()


def test_a_wrong_folder_is_one_line(bench) -> None:
    done = bench("models", BENCH_MODELS="nowhere")
    assert done.returncode == 2
    assert "nowhere is not a folder" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_our_networks_have_no_checkpoint_of_a_user() -> None:
    assert {network.checkpoint for network in NETWORKS.values()} == {None}
