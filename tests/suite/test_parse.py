"""Suite files: what they accept, and the line of each error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.suite.parse import load_suite, suite_names
from models.errors import UserError

GOOD = """\
name = "mine"
summary = "a test"
scenarios = ["latency"]
models = ["cnn-small"]
batch_sizes = [1, 64]
precisions = ["fp32"]
arms = ["pytorch/eager", "pytorch/compile", "ipex/jit"]
baselines = ["pytorch/eager", "pytorch/compile"]
primary = ["ipex/jit"]
"""


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a suite file and returns its path."""

    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", suite_names())
def test_the_suites_of_the_project_are_valid(name) -> None:
    assert load_suite(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('name = "mine"', 'name = "../up"', 1, "lower-case letters"),
        ('"latency"', '"guess"', 3, "allowed: latency, throughput"),
        ('["cnn-small"]', '["resnet"]', 4, "allowed: cnn-small, cnn-sam, cnn-vgg, cnn-bn"),
        ("[1, 64]", "[0]", 5, "from 1 to 10000"),
        ("[1, 64]", "[true]", 5, "whole numbers"),
        ("[1, 64]", f"[0x{'F' * 5000}]", 5, "a number that is too large"),
        ("[1, 64]", "[1, 1]", 5, "twice"),
        ("[1, 64]", "[]", 5, "at least one"),
        ('["fp32"]', '["fp8"]', 6, "allowed: fp32"),
        ('"ipex/jit"]\nb', '"jax/jit"]\nb', 7, "unknown stack"),
        ('"ipex/jit"]\nb', '"ipex/fast"]\nb', 7, "unknown variant in 'ipex/fast'; allowed: eager, jit"),
        ('["pytorch/eager", "pytorch/compile"]\np', '["pytorch/channels_last"]\np', 8, "not one of the arms"),
        ('primary = ["ipex/jit"]', 'primary = ["ipex/jit"]\nextra = 1', 10, "unknown key 'extra'"),
        ('scenarios = ["latency"]\n', "", None, "'scenarios' is missing"),
        ('"ipex/jit"]\nb', '"ipex/jit/fp8"]\nb', 7, "unknown precision"),
        ('"ipex/jit"]\nb', '"ipex/jit+magic"]\nb', 7, "unknown settings in 'ipex/jit+magic'; allowed: plain, malloc"),
        ('"ipex/jit"]\nb', '"ipex/jit/"]\nb', 7, "unknown precision"),
        ('"ipex/jit"]\nb', '"ipex/jit~fast"]\nb', 7, "'ipex/jit~fast' ends in '~fast'; allowed: ~workers, or the"),
        ('"ipex/jit"]\nb', '"ipex/jit~1in9us"]\nb', 7, "'ipex/jit~1in9us' ends in '~1in9us'; allowed: ~workers"),
        ('"ipex/jit"]\nb', '"ipex/jit", "ipex/jit~workers"]\nb', 7, "'ipex/jit~workers' takes part in none of latency"),
        ('"latency"', '"latency", "offline"', 3, "'single-stream' can't be combined with other scenarios than"),
        ('"latency"', '"server"', None, "the scenario 'server' needs a server_bound_us, and no other does"),
        ('primary = ["ipex/jit"]', 'primary = ["ipex/jit"]\nladders = 1', 10, "[[ladders]]"),
        ('primary = ["ipex/jit"]', 'primary = ["ipex/jit"]\n[[ladders]]\nname = "a"', None, "a name and steps"),
        ('primary = ["ipex/jit"]', 'primary = ["ipex/jit"]\n[[ladders]]\nname = "a"\nsteps = ["x"]', None, "pairs"),
        ('["ipex/jit"]\n', '["ipex/jit"]\n[[ladders]]\nname = "a"\nsteps = [[1, "ipex/jit"]]\n', None, "pairs"),
        ('baselines = ["pytorch/eager"', 'baselines = ["pytorch/eager+bound", "pytorch/eager"', 8, "twice"),
        ('baselines = ["pytorch/eager"', 'baselines = ["pytorch/eager/fp32"', 8, "'pytorch/eager/fp32' in"),
        (
            'primary = ["ipex/jit"]',
            'primary = ["ipex/jit"]\n[[ladders]]\nname = "a"\nsteps = [["x", "ipex/eager"]]',
            None,
            "'ipex/eager' in ladder a is not one of the arms",
        ),
        ("models = [", "models = [[", 5, "not TOML"),
    ],
)  # fmt: skip
def test_errors_name_their_line(write, old, new, line, reason) -> None:
    path = write(GOOD.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_suite(path)
    message = str(caught.value)
    assert message.startswith(path)
    assert reason in message
    assert "\n" not in message
    assert line is None or f"line {line}" in message


def test_unknown_and_unreadable_suites_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="unknown suite 'speed'; allowed: claims-inference"):
        load_suite("speed")
    with pytest.raises(UserError, match="No such file"):
        load_suite("nowhere/x.toml")
    with pytest.raises(UserError, match="Is a directory"):
        load_suite(f"{tmp_path}/")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="UTF-8"):
        load_suite(str(tmp_path / "b.toml"))


@given(st.text(max_size=200))
def test_any_other_text_is_a_user_error(tmp_path_factory, text) -> None:
    path = tmp_path_factory.mktemp("suite") / "s.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError):
        load_suite(str(path))
