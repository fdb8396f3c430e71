from pathlib import Path

import pytest

from backends.registry import stacks
from bench.suite.arms import DEFAULT_SETTINGS, Arm
from bench.suite.variables import SETTINGS, arm_variables, environment_variables, preload_variables, restart_variables


def test_plain_malloc_and_bound_each_add_to_the_one_before() -> None:
    plain, malloc, bound = (environment_variables(name, 2).items() for name in ("plain", "malloc", DEFAULT_SETTINGS))
    assert plain < malloc < bound
    assert dict(malloc - plain).keys() == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert {"OMP_PROC_BIND", "OMP_PLACES"} <= dict(bound - malloc).keys()


def test_the_number_of_threads_is_always_explicit() -> None:
    for name in SETTINGS:
        assert environment_variables(name, 3)["OMP_NUM_THREADS"] == "3"


def test_all_settings_include_the_variables_that_all_stacks_run_with() -> None:
    common = {name: value for stack in stacks().values() for name, value in stack.settings.items()}
    assert all(common.items() <= environment_variables(name, 1).items() for name in SETTINGS)


def test_an_arm_has_the_variables_of_its_settings_and_variant_and_its_own_caches(tmp_path) -> None:
    variables = arm_variables(Arm("itex", "off"), 2, tmp_path)
    assert environment_variables(DEFAULT_SETTINGS, 2).items() <= variables.items()
    assert stacks()["itex"].variants["off"].settings.items() <= variables.items()
    caches = arm_variables(Arm("pytorch", "compile"), 2, tmp_path)
    assert {caches[name] for name in stacks()["pytorch"].cache_variables} == {
        str(tmp_path / name.lower()) for name in stacks()["pytorch"].cache_variables
    }


def test_restart_variables_are_those_of_all_stacks() -> None:
    assert restart_variables() == {
        name: value for stack in stacks().values() for name, value in stack.restart_settings.items()
    }


def test_a_library_is_preloaded_from_the_environment_that_has_it(tmp_path) -> None:
    assert preload_variables("bound", tmp_path, tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"settings iomp need lib/libiomp5\.so, which is not in this"):
        preload_variables("iomp", tmp_path, tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    assert preload_variables("iomp", tmp_path, tmp_path) == {"LD_PRELOAD": str(tmp_path / "lib" / "libiomp5.so")}


@pytest.mark.parametrize("name", ["my files", "a:b"])
def test_a_library_whose_path_separates_libraries_is_preloaded_by_a_link(tmp_path, name) -> None:
    for environment in ("vanilla", "ipex"):
        folder = tmp_path / name / environment
        (folder / "lib").mkdir(parents=True)
        (folder / "lib" / "libiomp5.so").touch()
        for _ in range(2):
            library = preload_variables("iomp", folder, tmp_path)["LD_PRELOAD"]
            assert library == f"{tmp_path}/{environment}/libiomp5.so"
            assert Path(library).resolve() == folder / "lib" / "libiomp5.so"
    with pytest.raises(ValueError, match=f"LD_PRELOAD can't hold the blank or colon in .*{name}.*: set TMPDIR"):
        preload_variables("iomp", folder, tmp_path / name)
