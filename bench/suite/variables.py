"""The environment variables that workers run with, vanilla and Intel stacks alike."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.suite.arms import DEFAULT_SETTINGS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from bench.suite.arms import Arm

# Where the package intel-openmp installs it in an environment.
INTEL_OPENMP = "lib/libiomp5.so"
# What separates libraries in LD_PRELOAD: ld.so(8).
SEPARATORS = re.compile(r"[\s:]")


@dataclass(frozen=True)
class Settings:
    """A named set of environment variables. `preload` is a library, relative to the environment's folder."""

    name: str
    summary: str
    variables: dict[str, str]
    preload: str | None = None
    limit: IsaLimit | None = None


@dataclass(frozen=True)
class IsaLimit:
    """A limit of the instruction sets that kernels may use.

    It applies to arms at these `precisions`, on CPUs with the instruction set `without`. `phrase` names it in a ladder.
    No kernel may have the text `forbidden` in its name.
    """

    precisions: tuple[str, ...]
    without: str
    phrase: str
    forbidden: str


# Freed activations stay mapped; else the allocator returns them to the kernel, and each call faults them in again.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
# Threads stay on their cores. Intel's OpenMP threads stop spinning 1 ms after their work, not after the default 200 ms:
# they would use the cores during the slices of other arms. GNU's stop soon by themselves.
BINDING = {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores", "KMP_BLOCKTIME": "1"}
INTEL_BINDING = {"KMP_AFFINITY": "granularity=fine,compact,1,0", "KMP_BLOCKTIME": "1"}

SETTINGS = {
    settings.name: settings
    for settings in (
        Settings("plain", "only the number of threads is set", {}),
        Settings("malloc", "plain, with higher malloc thresholds", ALLOCATOR),
        Settings(DEFAULT_SETTINGS, "malloc, with OpenMP threads bound to cores; the default", ALLOCATOR | BINDING),
        Settings(
            "iomp",
            "malloc, with Intel's OpenMP runtime preloaded and its threads bound",
            ALLOCATOR | INTEL_BINDING,
            INTEL_OPENMP,
        ),
        Settings(
            "no-amx",
            "bound, with kernels limited to AVX-512",
            # The two name the instruction sets differently: in the second one, fp16 is above AMX.
            ALLOCATOR | BINDING | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_FP16", "ATEN_CPU_CAPABILITY": "avx512_bf16"},
            limit=IsaLimit(("bf16", "int8"), "amx_tile", "without AMX", "amx"),
        ),
    )
}


# The settings that `--isa` takes.
ISA_LIMITS = {name: settings.limit for name, settings in SETTINGS.items() if settings.limit}


def environment_variables(settings: str, threads: int, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of these settings, of the number of threads, and those that all stacks need.

    `given` are those that the user hands to all workers.
    """
    common = {
        "OMP_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "OPENBLAS_NUM_THREADS": str(threads),
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
    }
    return common | SETTINGS[settings].variables | stack_variables() | dict(given or {})


def stack_variables() -> dict[str, str]:
    """Return the variables that the arms of all stacks get, whatever their settings."""
    return {name: value for stack in stacks().values() for name, value in stack.settings.items()}


def arm_variables(arm: Arm, threads: int, caches: Path, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of the arm's settings and variant; compiled code is cached in folders below `caches`."""
    stack = stacks()[arm.stack]
    folders = {name: str(caches / name.lower()) for name in stack.cache_variables}
    return environment_variables(arm.settings, threads, given) | stack.variants[arm.variant].settings | folders


def preload_variables(
    settings: str, environment: Path, links: Path, given: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return LD_PRELOAD for settings that preload a library, with the libraries that are `given`.

    A path that LD_PRELOAD can't hold is replaced by that of a link in the folder `links`. Raises FileNotFoundError if
    the environment lacks the library, and ValueError if LD_PRELOAD can't hold the link either.
    """
    preload = SETTINGS[settings].preload
    if preload is None:
        return {}
    library = environment / preload
    if not library.is_file():
        raise FileNotFoundError(f"settings {settings} need {preload}, which is not in this environment")
    if SEPARATORS.search(str(library)):
        target, library = library, links / environment.name / library.name
        library.parent.mkdir(exist_ok=True)
        if not library.is_symlink():
            library.symlink_to(target)
    if SEPARATORS.search(str(library)):
        raise ValueError(f"LD_PRELOAD can't hold the blank or colon in {library}: set TMPDIR to another folder")
    return {"LD_PRELOAD": ":".join(filter(None, (str(library), (given or {}).get("LD_PRELOAD"))))}


def restart_variables() -> dict[str, str]:
    """Return the variables that shorten process starts in blocks; all arms get them, whatever their stack."""
    return {name: value for stack in stacks().values() for name, value in stack.restart_settings.items()}
