"""Training with PyTorch: its variants, and the optimiser steps that they share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backends import onednn
from backends.builders import FLOATS, require_evidence
from backends.protocol import Proof, ProofError, UnsupportedError, Variant
from backends.pytorch.framework import profile
from backends.pytorch.layers import as_nchw, build_module, neutral_weights
from backends.pytorch.ranks import CCL, GLOO, join, require_ccl
from models.recipes import ADAM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from backends.protocol import F32, State, TrainingSpec
    from backends.pytorch.framework import Framework
    from models.recipes import Recipe
    from models.weights import Weights

# Added to the norm of the gradient, so that a vanishing one does not divide by zero.
TINY = 1e-12


@dataclass(frozen=True)
class TrainingBuilder:
    """How a variant trains; the profile must contain an operator with one of the prefixes in `evidence`.

    The processes of a group communicate by the `transport`.
    """

    variant: Variant
    evidence: tuple[str, ...]
    memory_format: str = "channels_last"
    fused: bool = True
    transport: str = GLOO


BACKWARD, ALL_REDUCE = ("aten::convolution_backward",), ("c10d::allreduce_",)
TRAINING_BUILDERS = {
    "train": TrainingBuilder(
        Variant("Training in channels-last memory format with the framework's fused optimiser", FLOATS, trains=True),
        BACKWARD,
    ),
    "train-eager": TrainingBuilder(
        Variant("Training in NCHW with the optimiser's defaults: the common idiom", FLOATS, trains=True),
        BACKWARD,
        memory_format="contiguous_format",
        fused=False,
    ),
    "train-compile": TrainingBuilder(
        Variant(
            "Training with forward and backward pass compiled by TorchInductor, channels-last, fused optimiser",
            FLOATS,
            trains=True,
            compiles=True,
        ),
        BACKWARD,
    ),
    "train-ccl": TrainingBuilder(
        Variant("As train; the workers of a group communicate through oneCCL", FLOATS, trains=True, optional=True),
        BACKWARD,
        transport=CCL,
    ),
}


class TorchTraining:
    def __init__(self, framework: Framework, builder: TrainingBuilder, spec: TrainingSpec) -> None:
        import torch

        self._framework, self._builder, self._spec = framework, builder, spec
        if builder.transport == CCL:
            require_ccl()
        if spec.group and builder.variant.compiles:
            raise UnsupportedError(f"{spec.variant} trains in one process only: its graph would end at each exchange")
        self._format = getattr(torch, builder.memory_format)
        module = build_module(spec.network, spec.weights).to(memory_format=self._format).train()
        optimizer = make_optimizer(spec.recipe, module.parameters(), fused=builder.fused)
        self._module, self._optimizer = framework.optimise(module, optimizer, spec)
        self._forward = self._module
        if builder.variant.compiles:
            self._forward = torch.compile(self._module, dynamic=False, fullgraph=True)
        if spec.group:
            join(spec.group, builder.transport)
            # It averages the gradients over the ranks, while the backward pass computes the next ones.
            self._forward = torch.nn.parallel.DistributedDataParallel(self._module)
        self._loss = torch.nn.CrossEntropyLoss(label_smoothing=spec.recipe.label_smoothing)
        self.begin_epoch(spec.seed)

    def begin_epoch(self, seed: int) -> None:
        import torch

        torch.manual_seed(seed)

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        batch, target = as_nchw(images, self._format), torch.from_numpy(labels)
        loss = self._backward(batch, target)
        if self._spec.recipe.rho is not None:
            self._sharpen(batch, target, self._spec.recipe.rho)
        self._optimizer.step()
        return loss

    def _backward(self, batch: Any, target: Any) -> float:
        """Compute the gradients of a batch, which stay in the parameters, and return its loss."""
        import torch

        self._random = torch.get_rng_state() if self._spec.recipe.rho is not None else None
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self._forward(batch)
        loss = self._loss(logits.float(), target)
        loss.backward()
        return float(loss.detach())

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cpu", torch.bfloat16, enabled=self._spec.precision == "bf16")

    def _sharpen(self, batch: Any, target: Any, rho: float) -> None:
        """Replace the gradients by those at the worst nearby weights (Foret et al. 2021, algorithm 1).

        Weights and the running statistics of the first pass are restored exactly; both passes drop the same units.
        """
        import torch

        with torch.no_grad():
            parameters = self._parameters()
            lacking = sum(parameter.grad is None for parameter in parameters)
            if lacking:
                raise ProofError(f"{lacking} of {len(parameters)} parameters have no gradient")
            norms = [torch.linalg.vector_norm(parameter.grad, dtype=torch.float32) for parameter in parameters]
            scale = rho / (torch.linalg.vector_norm(torch.stack(norms)) + TINY)
            tensors = [*parameters, *self._module.buffers()]
            before = [tensor.clone() for tensor in tensors]
            torch._foreach_add_(parameters, [parameter.grad * scale for parameter in parameters])
        torch.set_rng_state(self._random)
        self._backward(batch, target)
        with torch.no_grad():
            for tensor, saved in zip(tensors, before, strict=True):
                tensor.copy_(saved)

    def _parameters(self) -> list[Any]:
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def logits(self, images: F32) -> F32:
        import torch

        self._module.eval()
        with torch.no_grad(), self._autocast():
            logits: F32 = self._module(as_nchw(images, self._format)).float().numpy()
        self._module.train()
        return logits

    def weights(self) -> Weights:
        return neutral_weights(self._spec.network, self._module)

    def state(self) -> State:
        """Return the optimiser's tensors as `INDEX.NAME`, with the index of the parameter."""
        slots = self._optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": np.array(value.float() if hasattr(value, "float") else value, np.float32, order="C")
            for index, slot in slots.items()
            for name, value in slot.items()
            if value is not None
        }

    def restore(self, state: State) -> None:
        import torch

        parameters = self._parameters()
        slots: dict[int, dict[str, Any]] = {}
        for key, array in state.items():
            index, name = key.split(".")
            tensor = self._framework.optimizer_tensor(torch.from_numpy(array), parameters[int(index)])
            slots.setdefault(int(index), {})[name] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": slots})

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        import torch

        operators, lines, _ = profile(lambda: self.step(images, labels, 0.0))
        require_evidence(operators, self._builder.evidence)
        versions = self._framework.versions() | onednn.information(lines)
        if self._spec.group:
            require_evidence(operators, ALL_REDUCE)
            versions["engine"] = f"DistributedDataParallel, {torch.distributed.get_backend()}"
        kernels = onednn.kernels(lines)
        return Proof(
            onednn.precision(kernels) or self._framework.reduced_arithmetic() or "fp32",
            torch.get_num_threads(),
            (*operators, *sorted(map(str, kernels))),
            versions,
        )


def make_optimizer(recipe: Recipe, parameters: Any, *, fused: bool) -> Any:
    import torch

    common = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay, "fused": fused}
    if recipe.optimizer == ADAM:
        return torch.optim.Adam(parameters, **common)
    return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=recipe.nesterov, **common)
