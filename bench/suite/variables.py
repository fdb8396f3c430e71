"""The environment variables that arms run under, vanilla and Intel alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.suite.arms import DEFAULT_SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    from bench.suite.arms import Arm

INTEL_OPENMP = "lib/libiomp5.so"  # where the package intel-openmp puts it in an environment


@dataclass(frozen=True)
class Settings:
    """A named set of environment variables. `preload` is a library, relative to the environment that has it."""

    name: str
    summary: str
    variables: dict[str, str]
    preload: str = ""


# Freed activations stay mapped, instead of going back to the kernel and coming again page by page.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
# Threads stay on their core. Those of Intel's runtime stop spinning a millisecond after their work, as GNU's do soon.
BINDING = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores", "KMP_BLOCKTIME": "1"}
INTEL_BINDING = {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}

SETTINGS = {
    each.name: each
    for each in (
        Settings("plain", "only the number of threads: as people run it", {}),
        Settings("malloc", "and malloc thresholds raised", ALLOCATOR),
        Settings(DEFAULT_SETTINGS, "and OpenMP threads bound to cores; every arm that names none", ALLOCATOR | BINDING),
        Settings("iomp", "and Intel's OpenMP runtime preloaded", ALLOCATOR | INTEL_BINDING, INTEL_OPENMP),
    )
}


def variables(name: str, threads: int) -> dict[str, str]:
    """Return the environment variables of the settings, at a number of threads."""
    common = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "OPENBLAS_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
    }
    of_stacks = {name: value for stack in stacks().values() for name, value in stack.settings.items()}
    return common | SETTINGS[name].variables | of_stacks


def of_process(arm: Arm, threads: int, caches: Path) -> dict[str, str]:
    """Return the variables of an arm's processes: its settings', its variant's, and folders below `caches`."""
    stack = stacks()[arm.stack]
    own = stack.variants[arm.variant].settings
    return variables(arm.settings, threads) | own | {name: str(caches / name.lower()) for name in stack.cache_variables}


def preloaded(name: str, environment: Path) -> dict[str, str]:
    """Return the variable that preloads the settings' library; raises FileNotFoundError when it is not there."""
    if not SETTINGS[name].preload:
        return {}
    library = environment / SETTINGS[name].preload
    if not library.is_file():
        raise FileNotFoundError(f"settings {name} need {SETTINGS[name].preload}, which this environment has not")
    return {"LD_PRELOAD": str(library)}


def restart_variables() -> dict[str, str]:
    """Return what is added in the blocks, for every arm alike, to shorten the start of processes that were proven."""
    return {name: value for stack in stacks().values() for name, value in stack.restart_settings.items()}
