"""How PyTorch, and what is derived from it, trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from backends import onednn
from backends.protocol import Proof, ProofError, Variant, first_line, require_evidence
from backends.pytorch_modules import as_nchw, build_module, neutral_weights, observed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from backends.protocol import F32, State, TrainingSpec
    from backends.pytorch import PyTorch
    from models.recipes import Recipe
    from models.weights import Weights

TINY = 1e-12  # keeps the norm of a vanishing gradient from dividing by zero


@dataclass(frozen=True)
class TrainingWay:
    """How a variant trains; its gradients must come from a kernel of these prefixes, as proof that it did."""

    build: Callable[[Any], Any]
    evidence: tuple[str, ...]
    memory_format: str = "channels_last"
    fused: bool = True
    precisions: tuple[str, ...] = ("fp32", "bf16")

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""
        return Variant(first_line(self.build), precisions=self.precisions, training=True)


def channels_last(module: Any) -> Any:
    """Train in channels-last memory format, with the framework's fused optimiser."""
    return module


def eager(module: Any) -> Any:
    """Train as people write it: NCHW, the optimiser as it comes."""
    return module


def compiled(module: Any) -> Any:
    """Train with forward and backward pass compiled by TorchInductor, channels-last, fused optimiser."""
    import torch

    return torch.compile(module, dynamic=False, fullgraph=True)


BACKWARD = ("aten::convolution_backward",)
TRAININGS = {
    "train": TrainingWay(channels_last, BACKWARD),
    "train-eager": TrainingWay(eager, BACKWARD, memory_format="contiguous_format", fused=False),
    "train-compile": TrainingWay(compiled, BACKWARD),
}


def optimizer_of(recipe: Recipe, parameters: Any, *, fused: bool) -> Any:
    """Return the recipe's optimiser."""
    import torch

    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=fused)
    return torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=recipe.momentum, fused=fused)


class TorchTraining:
    """A module and its optimiser."""

    def __init__(self, backend: PyTorch, course: TrainingSpec) -> None:
        import torch

        self._backend, self._course, self._way = backend, course, backend.trainings[course.variant]
        self._format = getattr(torch, self._way.memory_format)
        module = build_module(course.network, course.weights).to(memory_format=self._format).train()
        optimizer = optimizer_of(course.recipe, module.parameters(), fused=self._way.fused)
        self._module, self._optimizer = backend.with_optimizer(module, optimizer, course)
        self._forward = self._way.build(self._module)
        self._loss = torch.nn.CrossEntropyLoss()
        self.begin_epoch(course.seed)

    def begin_epoch(self, seed: int) -> None:
        """Seed dropout."""
        import torch

        torch.manual_seed(seed)

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one step of the optimiser on the mean cross-entropy."""
        import torch

        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        batch, target = as_nchw(images, self._format), torch.from_numpy(labels)
        loss = self._descend(batch, target)
        if self._course.recipe.rho is not None:
            self._sharpen(batch, target, self._course.recipe.rho)
        self._optimizer.step()
        return loss

    def _descend(self, batch: Any, target: Any) -> float:
        """Leave the gradients of a batch in the parameters and return its loss."""
        import torch

        self._random = torch.get_rng_state() if self._course.recipe.rho is not None else None
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self._forward(batch)
        loss = self._loss(logits.float(), target)
        loss.backward()
        return float(loss.detach())

    def _autocast(self) -> Any:
        import torch

        return torch.autocast("cpu", torch.bfloat16, enabled=self._course.precision == "bf16")

    def _sharpen(self, batch: Any, target: Any, rho: float) -> None:
        """Replace the gradients by those at the worst nearby weights (Foret et al. 2021, algorithm 1).

        The weights come back exactly, as do the running statistics of the first pass; dropout drops the same.
        """
        import torch

        with torch.no_grad():
            parameters = self._parameters()
            norms = [torch.linalg.vector_norm(each.grad, dtype=torch.float32) for each in parameters]
            scale = rho / (torch.linalg.vector_norm(torch.stack(norms)) + TINY)
            weights = [each.clone() for each in parameters]
            statistics = [each.clone() for each in self._module.buffers()]
            torch._foreach_add_(parameters, [each.grad * scale for each in parameters])
        torch.set_rng_state(self._random)
        self._descend(batch, target)
        with torch.no_grad():
            for now, before in zip([*parameters, *self._module.buffers()], [*weights, *statistics], strict=True):
                now.copy_(before)

    def _parameters(self) -> list[Any]:
        """Return what the optimiser moves; raises ProofError when something of it has no gradient."""
        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        if lacking := sum(each.grad is None for each in parameters):
            raise ProofError(f"{lacking} of {len(parameters)} parameters have no gradient")
        return parameters

    def logits(self, images: F32) -> F32:
        """Return the logits of an NHWC batch, as in inference."""
        import torch

        self._module.eval()
        with torch.no_grad(), self._autocast():
            found: F32 = self._module(as_nchw(images, self._format)).float().numpy()
        self._module.train()
        return found

    def weights(self) -> Weights:
        """Return the weights in neutral layout."""
        return neutral_weights(self._course.network, self._module)

    def state(self) -> State:
        """Return the optimiser's moments, numbered as its parameters are."""
        slots = self._optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": np.array(value.float() if hasattr(value, "float") else value, np.float32, order="C")
            for index, slot in slots.items()
            for name, value in slot.items()
            if value is not None
        }

    def restore(self, state: State) -> None:
        """Continue with an optimiser's moments."""
        import torch

        parameters = [each for group in self._optimizer.param_groups for each in group["params"]]
        slots: dict[int, dict[str, Any]] = {}
        for key, array in state.items():
            index, name = key.split(".")
            tensor = self._backend.moment(torch.from_numpy(array), parameters[int(index)])
            slots.setdefault(int(index), {})[name] = tensor
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": slots})

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        """Profile one step that moves nothing, and listen to oneDNN during another."""
        import torch

        names, lines, _ = observed(lambda: self.step(images, labels, 0.0))
        require_evidence(names, self._way.evidence)
        ran = onednn.kernels(lines)
        precision = onednn.precision(ran) or self._backend.reduced_arithmetic() or "fp32"
        kernels = (*names, *sorted(map(str, ran)))
        versions = self._backend.versions() | onednn.information(lines)
        return Proof(precision, torch.get_num_threads(), kernels, versions)
