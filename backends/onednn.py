"""Read from oneDNN's own account of what it ran which kernels it chose, and at which precision."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Both of its formats: "…,exec,cpu,convolution,brgconv:avx512_core,forward_training,src_f32::…" and, from 3.5 on,
# "…,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_training,src:f32::…".
EXECUTED = re.compile(r"onednn_verbose.*,exec,cpu,(\w+),([^,]*),[^,]*,src[_:](\w+?):")
INFORMATION = re.compile(r"onednn_verbose.*info,(?:oneDNN (v[\d.]+)|cpu,(runtime:\w+)|cpu,(isa:[^,]+))")
HEAVY = ("convolution", "inner_product", "matmul", "gemm_api")
PRECISIONS = {"f32": "fp32", "bf16": "bf16", "u8": "int8", "s8": "int8"}


@dataclass(frozen=True)
class Kernel:
    """A primitive that ran: its kind, the implementation that was chosen, and the precision of its source."""

    kind: str
    implementation: str
    precision: str

    def __str__(self) -> str:
        return f"{self.kind} {self.implementation} {self.precision}"


@contextmanager
def standard_output() -> Iterator[list[str]]:
    """Catch what the process writes to its standard output, C++ code included; the list is filled on leaving."""
    lines: list[str] = []
    sys.stdout.flush()
    before = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            yield lines
        finally:
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()


def kernels(lines: Iterable[str]) -> set[Kernel]:
    """Return the primitives that multiply and add, as the verbose lines tell them."""
    found = (EXECUTED.match(line) for line in lines)
    return {Kernel(each[1], each[2], PRECISIONS.get(each[3], each[3])) for each in found if each and each[1] in HEAVY}


def information(lines: Iterable[str]) -> dict[str, str]:
    """Return version, runtime and instruction set from the header of the verbose lines."""
    found = [match for line in lines if (match := INFORMATION.match(line))]
    names = ("onednn", "onednn runtime", "onednn isa")
    return {
        name: value.rpartition(":")[2]
        for match in found
        for name, value in zip(names, match.groups(), strict=True)
        if value
    }


def precision(ran: Iterable[Kernel]) -> str:
    """Return the precision of the primitives, joined by "+" where they differ, empty where none ran."""
    return "+".join(sorted({kernel.precision for kernel in ran}))
