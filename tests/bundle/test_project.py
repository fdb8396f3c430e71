"""What is read from the project's own files."""

import pytest

from bench.bundle.project import choose_environments, requested_environments, tool_requirements
from bench.suite.environments import environment_names
from conftest import ROOT
from models.errors import UserError


def test_each_environment_of_a_stack_has_its_extra_and_the_dependencies_of_its_tests() -> None:
    found = requested_environments(ROOT)
    for name in environment_names():
        assert found[name].extras == (name, "loadgen")
        assert found[name].groups == ("test",)
    assert found["onnxruntime"].variables == (("UV_OVERRIDE", f"{ROOT}/overrides.txt"),)
    assert found["vanilla"].variables == ()


def test_the_tools_are_those_of_tox_and_of_a_build() -> None:
    words = [line.split(">")[0].split("=")[0] for line in tool_requirements(ROOT)]
    assert words == ["tox", "tox-uv", "hatchling", "editables"]


@pytest.mark.parametrize(
    ("asked", "built", "chosen"),
    [
        ((), (), ["vanilla", "ipex"]),
        ((), ("ipex", "tests"), ["ipex"]),
        (("ipex", "vanilla", "ipex"), (), ["ipex", "vanilla"]),
    ],
    ids=["those of tox", "those that exist", "those asked for"],
)
def test_environments_are_chosen(tmp_path, checkout, asked, built, chosen) -> None:
    for name in built:
        (tmp_path / name).mkdir()
        (tmp_path / name / "pyvenv.cfg").touch()
    found = choose_environments(asked, ["vanilla", "ipex"], tmp_path, checkout)
    assert [each.name for each in found] == chosen


def test_an_unknown_environment_is_named_with_those_that_exist(tmp_path, checkout) -> None:
    with pytest.raises(UserError, match="unknown environment 'tests'; allowed: vanilla, ipex"):
        choose_environments(["tests"], ["vanilla", "ipex"], tmp_path, checkout)


def test_a_folder_without_the_configuration_of_tox_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"holds no tox\.ini; run this from a checkout"):
        requested_environments(tmp_path)
