"""PyTorch, vanilla."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.builders import builder_for, variants_of
from backends.protocol import InferenceSpec, Session, Stack, Training, TrainingSpec
from backends.pytorch.files import read_contents, write_model
from backends.pytorch.framework import Framework
from backends.pytorch.inference import INFERENCE_BUILDERS, InferenceBuilder, TorchSession
from backends.pytorch.training import TRAINING_BUILDERS, TorchTraining, TrainingBuilder
from models.formats.kind import PYTORCH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["STACK", "PyTorch", "open_backend", "read_contents", "write_model"]

STACK = Stack(
    name="pytorch",
    summary="PyTorch, vanilla",
    environment="vanilla",
    packages=("torch",),
    variants=variants_of(INFERENCE_BUILDERS, TRAINING_BUILDERS),
    default_variant="eager",
    default_training="train",
    modules=("torch",),
    # No pool of compiler processes that would run at the same time as the arm.
    settings={"TORCHINDUCTOR_COMPILE_THREADS": "1"},
    # The proof pass has already compiled with this machine's instruction set.
    restart_settings={"TORCHINDUCTOR_VEC_ISA_OK": "1"},
    cache_variables=("TORCHINDUCTOR_CACHE_DIR",),
    compiles_unbound=True,
    products=("fp32", "bf16", "int8"),
    reads=(PYTORCH,),
    writes=(".pth",),
)


class PyTorch(Framework):
    """The backend; derived stacks replace its builders and the hooks of Framework."""

    inference_builders: Mapping[str, InferenceBuilder] = INFERENCE_BUILDERS
    training_builders: Mapping[str, TrainingBuilder] = TRAINING_BUILDERS

    def inference(self, spec: InferenceSpec) -> Session:
        """Build a session; from here on the process stays in inference mode and in the session's precision."""
        return TorchSession(self, builder_for(self.inference_builders, spec), spec)

    def training(self, spec: TrainingSpec) -> Training:
        return TorchTraining(self, self.training_builders[spec.variant], spec)

    def product(self, precision: str, order: int) -> Callable[[], object]:
        """Return a function that multiplies two square matrices; int8 accumulates in int32."""
        import torch

        kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
        left, right = (torch.ones(order, order, dtype=kind) for _ in range(2))
        multiply = torch._int_mm if precision == "int8" else torch.mm
        product = torch.empty(order, order, dtype=torch.int32 if precision == "int8" else kind)
        return lambda: multiply(left, right, out=product)


def open_backend(threads: int) -> PyTorch:
    return PyTorch(threads)
