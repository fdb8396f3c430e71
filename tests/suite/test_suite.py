import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.suite.arms import Arm
from bench.suite.parse import load_suite, suite_names
from bench.suite.suite import baselines_of, narrow
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
def test_the_project_s_own_suites_are_valid(name) -> None:
    assert load_suite(name).name == name


def test_the_first_baseline_runs_twice(write) -> None:
    measured = load_suite(write(GOOD)).measured
    assert [arm.id for arm in measured] == ["pytorch/eager", "pytorch/eager@A/A", "pytorch/compile", "ipex/jit"]


def test_an_intel_arm_is_held_against_every_baseline_and_a_vanilla_one_against_the_first(write) -> None:
    suite = load_suite(write(GOOD))
    found = {arm.id: [baseline.id for baseline in baselines_of(suite, arm)] for arm in suite.arms}
    assert found == {
        "pytorch/eager": [],
        "pytorch/compile": ["pytorch/eager"],
        "ipex/jit": ["pytorch/eager", "pytorch/compile"],
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('name = "mine"', 'name = "../up"', 1, "lower-case letters"),
        ('"latency"', '"guess"', 3, "allowed: latency, throughput"),
        ('["cnn-small"]', '["resnet"]', 4, "allowed: cnn-small, cnn-sam, cnn-vgg, cnn-bn"),
        ("[1, 64]", "[0]", 5, "from 1 to 10000"),
        ("[1, 64]", "[true]", 5, "whole numbers"),
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
def test_what_is_wrong_is_told_with_its_line(write, old, new, line, reason) -> None:
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
def test_no_text_makes_the_reader_crash(tmp_path_factory, text) -> None:
    path = tmp_path_factory.mktemp("suite") / "s.toml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(UserError):
        load_suite(str(path))


def test_the_command_line_replaces_and_narrows(write) -> None:
    suite = narrow(load_suite(write(GOOD)), batch_sizes=[8, 8, 2], chosen_stacks=["pytorch"])
    assert [case.batch_size for case in suite.cases] == [8, 2]
    assert suite.arms == (Arm("pytorch", "eager"), Arm("pytorch", "compile"))
    assert suite.primary == ()


def test_without_its_vanilla_stack_an_intel_arm_has_no_baseline_and_no_twin(write) -> None:
    suite = narrow(load_suite(write(GOOD)), chosen_stacks=["ipex"])
    assert suite.measured == (Arm("ipex", "jit"),)
    assert baselines_of(suite, suite.arms[0]) == []


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"models": ["resnet"]}, "unknown model"),
        ({"precisions": ["fp8"]}, "unknown precision"),
        ({"batch_sizes": [0]}, "--batch-size 0"),
        ({"chosen_stacks": ["oracle"]}, "no arm of oracle; its stacks: pytorch, ipex"),
    ],
)
def test_unknown_names_on_the_command_line_are_refused(write, option, reason) -> None:
    with pytest.raises(UserError, match=reason):
        narrow(load_suite(write(GOOD)), **option)
