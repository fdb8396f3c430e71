"""Read from oneDNN's verbose output which kernels ran, and at which precision."""

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

# Both of its formats: "…,exec,cpu,convolution,brgconv:avx512_core,forward_training,src_f32::…" and, since 3.5,
# "…,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_training,src:f32::…".
EXECUTED = re.compile(r"onednn_verbose.*,exec,cpu,(\w+),([^,]*),[^,]*,src[_:](\w+?):")
INFORMATION = re.compile(r"onednn_verbose.*info,(?:oneDNN (v[\d.]+)|cpu,(runtime:\w+)|cpu,(isa:.+))")
HEAVY = ("convolution", "inner_product", "matmul", "gemm_api")
PRECISIONS = {"f32": "fp32", "bf16": "bf16", "u8": "int8", "s8": "int8"}


@dataclass(frozen=True)
class Kernel:
    """A primitive that ran: its kind, the implementation that oneDNN chose, and the precision of its source."""

    kind: str
    implementation: str
    precision: str

    def __str__(self) -> str:
        return f"{self.kind} {self.implementation} {self.precision}"


@contextmanager
def standard_output() -> Iterator[list[str]]:
    """Capture what the process writes to its standard output, also from C++; the list is filled on exit."""
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
    """Return the primitives that multiply and add."""
    matches = [match for line in lines if (match := EXECUTED.match(line)) and match[1] in HEAVY]
    return {Kernel(match[1], match[2], PRECISIONS.get(match[3], match[3])) for match in matches}


def information(lines: Iterable[str]) -> dict[str, str]:
    """Return version, runtime and instruction set from the header of the verbose output."""
    names = ("onednn", "onednn runtime", "onednn isa")
    matches = [match for line in lines if (match := INFORMATION.match(line))]
    return {
        name: value.rpartition(":")[2]
        for match in matches
        for name, value in zip(names, match.groups(), strict=True)
        if value
    }


def precision(kernels: Iterable[Kernel]) -> str:
    """Return the precisions of the kernels, joined by "+"; empty without kernels."""
    return "+".join(sorted({kernel.precision for kernel in kernels}))
