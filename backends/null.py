"""A stack that does nothing: what it measures is the harness itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import F32, InferenceSpec, Proof, Session, Stack, Variant

if TYPE_CHECKING:
    from pathlib import Path


STACK = Stack(
    name="null",
    summary="returns a constant: the harness's own overhead",
    environment=None,
    packages=("numpy",),
    variants={"constant": Variant("Return the same zeros for every batch")},
    internal=True,
)


class NullSession:
    """Zeros for logits."""

    def __init__(self, batch_size: int) -> None:
        self._logits = np.zeros((batch_size, 10), np.float32)

    def prepare(self, images: F32) -> F32:
        """Return the batch as it is."""
        return images

    def step(self, batch: F32) -> F32:
        """Return the constant."""
        return self._logits

    def to_numpy(self, logits: F32) -> F32:
        """Return the constant as it is."""
        return logits

    def prove(self, batch: F32) -> Proof:
        """Prove nothing but the versions."""
        self.step(batch)
        return Proof("fp32", 1, (), {"numpy": np.__version__})

    def save(self, folder: Path) -> None:
        """Write nothing."""


class NullBackend:
    """No framework."""

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build the session that does nothing."""
        return NullSession(deployment.batch_size)


def open_backend(threads: int) -> NullBackend:
    """Open the backend; threads do not matter to it."""
    return NullBackend()
