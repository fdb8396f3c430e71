from pathlib import Path

import pytest

from backends.registry import stacks
from bench.suite import environments as module
from bench.suite.environments import (
    Environment,
    MissingEnvironmentError,
    environment_of,
    find_stack,
    version_differences,
)
from models.errors import UserError


@pytest.fixture
def environments(tmp_path, monkeypatch):
    """Return a function that makes a virtualenv-like folder with the named distributions."""
    monkeypatch.setenv(module.ENVIRONMENTS_DIR, str(tmp_path))
    module._environment.cache_clear()

    def make(name: str, **packages: str) -> Path:
        site = tmp_path / name / "lib" / "python3.11" / "site-packages"
        site.mkdir(parents=True)
        (tmp_path / name / "bin").mkdir()
        (tmp_path / name / "bin" / "python").touch()
        (tmp_path / name / "pyvenv.cfg").write_text("home = /usr\nversion_info = 3.11.7\n")
        for package, version in packages.items():
            folder = site / f"{package}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        return tmp_path / name

    yield make
    module._environment.cache_clear()


def test_the_folder_of_the_environments_may_be_relative(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(module.ENVIRONMENTS_DIR, "some/where")
    assert module.environments_dir() == tmp_path / "some" / "where"


def test_a_missing_environment_is_named_with_the_command_that_makes_it(environments) -> None:
    with pytest.raises(
        MissingEnvironmentError, match="environment ipex does not exist or is damaged; make it: tox -r -e ipex --notest"
    ):
        environment_of(find_stack("ipex"))


def test_a_relative_folder_of_environments_is_that_of_the_command(environments, tmp_path, monkeypatch) -> None:
    folder = environments("vanilla", torch="2.8.0", cnn_stack_bench="0.1.0")
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv(module.ENVIRONMENTS_DIR, tmp_path.name)
    assert environment_of(find_stack("pytorch")).python == folder / "bin" / "python"


def test_an_environment_without_the_stacks_packages_is_named_with_those_that_it_lacks(environments) -> None:
    environments("ipex", torch="2.8.0", cnn_stack_bench="0.1.0")
    with pytest.raises(MissingEnvironmentError, match=r"lacks intel-extension-for-pytorch; .* tox -r -e ipex"):
        environment_of(find_stack("ipex"))


def test_an_environment_lists_its_packages_and_its_python(environments) -> None:
    folder = environments("vanilla", Torch="2.8.0", cnn_stack_bench="0.1.0")
    assert environment_of(find_stack("pytorch")) == Environment(
        "vanilla", folder / "bin" / "python", "3.11.7", {"cnn-stack-bench": "0.1.0", "torch": "2.8.0"}
    )


def test_only_shared_packages_and_python_are_compared() -> None:
    ours = Environment("a", Path(), "3.11.7", {"numpy": "1.26.4", "torch": "2.8.0", "cnn-stack-bench": "1"})
    theirs = Environment("b", Path(), "3.11.8", {"numpy": "1.26.3", "other": "1", "cnn-stack-bench": "2"})
    assert version_differences(ours, theirs) == {"numpy": ("1.26.4", "1.26.3"), "python": ("3.11.7", "3.11.8")}
    assert version_differences(ours, ours) == {}


def test_an_unknown_stack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown stack 'jax'; allowed: pytorch, tensorflow, ipex"):
        find_stack("jax")


def test_every_stack_describes_its_variants() -> None:
    for stack in stacks().values():
        assert set(stack.baselines) <= stacks().keys()
        assert all(variant.summary and variant.precisions for variant in stack.variants.values())
