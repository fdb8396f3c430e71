import pytest

from backends.registry import stacks
from bench.suite import variables as settings
from bench.suite.arms import DEFAULT_SETTINGS


def test_each_of_the_settings_adds_to_the_one_before() -> None:
    plain, malloc, bound = (settings.variables(name, 2).items() for name in ("plain", "malloc", DEFAULT_SETTINGS))
    assert plain < malloc < bound
    assert dict(malloc - plain).keys() == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    assert {"OMP_PROC_BIND", "OMP_PLACES"} <= dict(bound - malloc).keys()


def test_the_number_of_threads_is_always_explicit() -> None:
    for name in settings.SETTINGS:
        assert settings.variables(name, 3)["OMP_NUM_THREADS"] == "3"


def test_what_all_stacks_run_under_is_in_all_settings() -> None:
    wanted = {name: value for stack in stacks().values() for name, value in stack.settings.items()}
    assert all(wanted.items() <= settings.variables(name, 1).items() for name in settings.SETTINGS)


def test_a_library_is_preloaded_from_the_environment_that_has_it(tmp_path) -> None:
    assert settings.preloaded("bound", tmp_path) == {}
    with pytest.raises(FileNotFoundError, match=r"settings iomp need lib/libiomp5\.so"):
        settings.preloaded("iomp", tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libiomp5.so").touch()
    assert settings.preloaded("iomp", tmp_path) == {"LD_PRELOAD": str(tmp_path / "lib" / "libiomp5.so")}
