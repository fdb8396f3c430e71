"""The NumPy oracle as a stack: needs no framework, so that the whole harness can be exercised anywhere."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from backends.protocol import F32, InferenceSpec, Proof, Session, Stack, Variant
from models import oracle
from models.weights import save_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.spec import Network
    from models.weights import Weights

STACK = Stack(
    name="oracle",
    summary="the NumPy forward pass that every backend is held against",
    environment=None,
    packages=("numpy",),
    variants={"numpy": Variant("Multiply and add in float64")},
    products=("fp32",),
    internal=True,
)


class OracleSession:
    """A network computed by NumPy."""

    def __init__(self, network: Network, weights: Weights) -> None:
        self._network, self._weights = network, weights

    def prepare(self, images: F32) -> F32:
        """Return the batch as it is."""
        return images

    def step(self, batch: F32) -> F32:
        """Return the logits."""
        return oracle.logits(self._network, self._weights, batch).astype(np.float32)

    def to_numpy(self, logits: F32) -> F32:
        """Return the logits as they are."""
        return logits

    def prove(self, batch: F32) -> Proof:
        """Run once; NumPy has no profiler, so that the kernels stay unnamed."""
        self.step(batch)
        threads = int(os.environ.get("OPENBLAS_NUM_THREADS", "1"))
        return Proof("fp32", threads, (), {"numpy": np.__version__})

    def save(self, folder: Path) -> None:
        """Write the weights."""
        save_weights(folder / "model.safetensors", self._weights, {})


class OracleBackend:
    """NumPy."""

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build the session; every batch size will do."""
        return OracleSession(deployment.network, deployment.weights)

    def product(self, precision: str, order: int) -> Callable[[], object]:
        """Return a product by the BLAS that NumPy comes with."""
        one, other, product = (np.full((order, order), value, np.float32) for value in (1, 2, 0))
        return lambda: np.matmul(one, other, out=product)


def open_backend(threads: int) -> OracleBackend:
    """Open the backend."""
    return OracleBackend()
