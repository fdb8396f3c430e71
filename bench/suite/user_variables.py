"""The user's environment variables: those of `--env`, which all workers get alike, and what becomes of the others."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.suite.variables import SETTINGS, environment_variables, restart_variables
from models.errors import UserError
from models.timeouts import TIMEOUT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

ONEDNN_ISA, ATEN_ISA, PRELOAD = "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "LD_PRELOAD"
# All that workers inherit; every other variable that they see is set explicitly, and recorded.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "BENCH_BACKENDS", "BENCH_MODELS", TIMEOUT_VARIABLE, "CXX")
# Of these, what can change a result: the compiler of the arms that compile.
RECORDED = ("CXX",)
# Workers do not inherit these, because stacks, compilers and loaders would act on them: names, and beginnings of names.
DROPPED = (
    "ATEN_", "BLIS_", "DNNL_", "GLIBC_TUNABLES", "GOMP_", "IPEX_", "ITEX_", "KERAS_", "KMP_", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "MALLOC_", "MKL_", "NNCF_", "NUMEXPR_", "OMP_", "ONEDNN_", "OPENBLAS_", "OPENVINO_", "OV_",
    "PYTHONMALLOC", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTORCH_", "TCMALLOC_", "TF_", "TORCH", "XLA_",
)  # fmt: skip
# Not TensorFlow's, but Terraform's.
OTHERS = ("TF_CLI_", "TF_TOKEN_", "TF_VAR_")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
THREAD_COUNT = re.compile(r"NUM_(\w+_)?THREADS|_THREAD_LIMIT")
AVX2, AVX512 = ("avx2",), ("avx2", "avx512f")
VNNI, BF16 = (*AVX512, "avx512_vnni"), (*AVX512, "avx512_vnni", "avx512_bf16")
FP16, AMX = (*BF16, "avx_vnni"), (*BF16, "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
# The values of ONEDNN_MAX_CPU_ISA, narrowest first, each with the instruction sets that it leaves. Names of kernels
# contain them in lower case, or their beginnings: AVX512_CORE as avx512.
ONEDNN_LEVELS = {
    "SSE41": (), "AVX": (), "AVX2": AVX2, "AVX2_VNNI": (*AVX2, "avx_vnni"), "AVX2_VNNI_2": (*AVX2, "avx_vnni"),
    "AVX512_CORE": AVX512, "AVX512_CORE_VNNI": VNNI, "AVX512_CORE_BF16": BF16, "AVX512_CORE_FP16": FP16,
    "AVX512_CORE_AMX": AMX, "AVX512_CORE_AMX_FP16": AMX,
}  # fmt: skip
SHORT_MARKS = {"amx": "AVX512_CORE_AMX", "avx10": "AVX512_CORE_FP16", "avx512": "AVX512_CORE"}
ATEN_LEVELS = (
    "default", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_bf16", "amx", "avx512_fp16",
)  # fmt: skip


@dataclass(frozen=True)
class UserVariables:
    """The user's variables that can change a result.

    `given` are those of `--env`, and `kept` those that workers inherit. `dropped` are the names of those that they do
    not get: their values do not matter, and may be secret.
    """

    given: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()


def user_variables(assignments: Iterable[str] = ()) -> UserVariables:
    """Return what becomes of the variables of this process; `assignments` are those of `--env`.

    Raises UserError for an assignment that workers can't get.
    """
    given = _parse(assignments)
    own = {name: value for name, value in os.environ.items() if value and name not in given}
    return UserVariables(
        given=given,
        kept={name: own[name] for name in RECORDED if name in own},
        dropped=tuple(sorted(name for name in own if name.startswith(DROPPED) and not name.startswith(OTHERS))),
    )


def _parse(assignments: Iterable[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (equals and NAME.fullmatch(name)):
            raise UserError(f"--env {assignment}: allowed: NAME=VALUE")
        if name in given:
            raise UserError(f"--env {name}: is given twice; give it once")
        if fault := _name_fault(name) or _value_fault(name, value):
            raise UserError(f"--env {name}: {fault}")
        given[name] = value
    return given


def _name_fault(name: str) -> str | None:
    if THREAD_COUNT.search(name):
        return "the harness sets the number of threads; use --threads"
    if name in _set_by_harness():
        return "the harness sets it for all arms alike; `bench list` shows its settings"
    if name in (*INHERITED, "TMPDIR"):
        return "set it before the command instead, from where it reaches the workers"
    if name.startswith("PYTHON"):
        return "workers are isolated from Python's own variables; allowed: others"
    if name == "DNNL_MAX_CPU_ISA":
        return f"use {ONEDNN_ISA}, its newer name"
    return None


def _set_by_harness() -> set[str]:
    """Return the names that settings, stacks and variants set; a limit of the instruction sets may be given instead."""
    settings = [name for name, declared in SETTINGS.items() if not declared.limit]
    variants = chain.from_iterable(stack.variants.values() for stack in stacks().values())
    return {
        *chain.from_iterable(environment_variables(name, 1) for name in settings),
        *chain.from_iterable(variant.settings for variant in variants),
        *chain.from_iterable(stack.cache_variables for stack in stacks().values()),
        *restart_variables(),
    }


def _value_fault(name: str, value: str) -> str | None:
    """Return why a library would not be loaded, or a limit would have no effect: nobody says so at run time."""
    if name == ONEDNN_ISA and value.upper() not in ONEDNN_LEVELS:
        return f"{value!r} has no effect; allowed: {', '.join(ONEDNN_LEVELS)}"
    if name == ATEN_ISA and value not in ATEN_LEVELS:
        return f"{value!r} has no effect; allowed: {', '.join(ATEN_LEVELS)}"
    if name == PRELOAD:
        for library in value.split(":"):
            # The loader divides the value at blanks as well.
            if not (library.startswith("/") and " " not in library and Path(library).is_file()):
                return f"{library!r} can't be loaded; allowed: absolute paths of libraries without blanks, A:B"
    return None


def usable_instruction_sets(present: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of the CPU's instruction sets that oneDNN may use under the given variables."""
    if ONEDNN_ISA not in given:
        return tuple(present)
    return tuple(name for name in present if name in ONEDNN_LEVELS[given[ONEDNN_ISA].upper()])


def limit_fault(given: Mapping[str, str], kernels: Collection[str], versions: Mapping[str, str]) -> str | None:
    """Return how what ran exceeded the given limits of the instruction sets, or None.

    `versions` hold under `isa` what PyTorch's own kernels use. Stacks that name no kernels show nothing.
    """
    if ONEDNN_ISA in given:
        names, limit = list(ONEDNN_LEVELS), given[ONEDNN_ISA].upper()
        for kernel in kernels:
            if (level := _level_of(kernel)) and names.index(level) > names.index(limit):
                return f"{kernel} ran, which {ONEDNN_ISA}={limit} forbids"
    asked, read = given.get(ATEN_ISA), versions.get("isa", "").lower()
    # PyTorch itself reads back no finer levels than these.
    if read and asked in ("default", "avx2") and read not in ("default", asked):
        return f"instruction set read back as {read}, asked for {ATEN_ISA}={asked}"
    return None


def _level_of(kernel: str) -> str | None:
    """Return the widest limit that a kernel's name shows, or None if it shows none."""
    marks = {name.lower(): name for name in ONEDNN_LEVELS} | SHORT_MARKS
    shown = [name for mark, name in marks.items() if mark in kernel.lower()]
    return max(shown, key=list(ONEDNN_LEVELS).index, default=None)
