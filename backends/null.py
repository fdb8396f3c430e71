"""A stack that does nothing, to measure the overhead of the harness itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import F32, InferenceSpec, Proof, Session, Stack, Variant

if TYPE_CHECKING:
    from pathlib import Path

STACK = Stack(
    name="null",
    summary="returns a constant: the overhead of the harness",
    environment=None,
    packages=("numpy",),
    variants={"constant": Variant("The same zeros for every batch")},
    default_variant="constant",
    internal=True,
)


class NullSession:
    def __init__(self, batch_size: int) -> None:
        self._logits = np.zeros((batch_size, 10), np.float32)

    def prepare(self, images: F32) -> F32:
        return images

    def step(self, batch: F32) -> F32:
        return self._logits

    def to_numpy(self, logits: F32) -> F32:
        return logits

    def prove(self, batch: F32) -> Proof:
        self.step(batch)
        return Proof("fp32", 1, (), {"numpy": np.__version__})

    def save(self, folder: Path) -> None:
        """Write nothing."""


class NullBackend:
    def inference(self, spec: InferenceSpec) -> Session:
        return NullSession(spec.batch_size)


def open_backend(threads: int) -> NullBackend:
    return NullBackend()
