"""The NumPy oracle as a stack: it needs no framework, so the whole harness can run on it anywhere."""

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
    summary="the NumPy forward pass that every backend is compared with",
    environment=None,
    packages=("numpy",),
    variants={"numpy": Variant("The forward pass in float64")},
    default_variant="numpy",
    products=("fp32",),
    internal=True,
)


class OracleSession:
    def __init__(self, network: Network, weights: Weights) -> None:
        self._network, self._weights = network, weights

    def prepare(self, images: F32) -> F32:
        return images

    def step(self, batch: F32) -> F32:
        return oracle.logits(self._network, self._weights, batch).astype(np.float32)

    def to_numpy(self, logits: F32) -> F32:
        return logits

    def prove(self, batch: F32) -> Proof:
        """Run once; NumPy has no profiler, so no kernels are named."""
        self.step(batch)
        threads = int(os.environ.get("OPENBLAS_NUM_THREADS", "1"))
        return Proof("fp32", threads, (), {"numpy": np.__version__})

    def save(self, folder: Path) -> None:
        save_weights(folder / "model.safetensors", self._weights, {})


class OracleBackend:
    def inference(self, spec: InferenceSpec) -> Session:
        return OracleSession(spec.network, spec.weights)

    def product(self, precision: str, order: int) -> Callable[[], object]:
        left, right, product = (np.full((order, order), value, np.float32) for value in (1, 2, 0))
        return lambda: np.matmul(left, right, out=product)


def open_backend(threads: int) -> OracleBackend:
    return OracleBackend()
