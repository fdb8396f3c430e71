"""Find a network's parameters among the tensors of a file: by shapes, then by names, then by the order of layers."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from models.formats.contents import FP32, Tensor
from models.formats.layouts import KERAS_LAYOUT, PYTORCH_LAYOUT, shape_in

if TYPE_CHECKING:
    from models.formats.contents import Table
    from models.spec import Network, PlacedLayer, Shape

# Our names of parameters by those of PyTorch, Keras and others, for layers with a kernel and for batch normalisation.
KERNEL_ROLES = {"weight": "weight", "kernel": "weight", "w": "weight", "bias": "bias", "b": "bias"}
NORM_ROLES = {
    "weight": "scale", "gamma": "scale", "scale": "scale", "bias": "shift", "beta": "shift", "shift": "shift",
    "running_mean": "mean", "moving_mean": "mean", "mean": "mean", "running_var": "variance",
    "moving_variance": "variance", "moving_var": "variance", "variance": "variance", "var": "variance",
}  # fmt: skip
STATISTICS = {name for name, role in NORM_ROLES.items() if role in ("mean", "variance")}
# What tools store beside the weights: counters of batches and steps, counts of operations, states of generators.
BOOKKEEPING = re.compile(
    r"(^|[./_])(num_batches_tracked|n_averaged|total_ops|total_params|seed_generator_state|iterations?|learning_rate)$"
)
# Parts of names that mean that the weights are stored as something else, and what to do.
REPARAMETRISED = (
    (
        re.compile(r"weight_[gv]$|parametrizations[./]"),
        "weight normalisation or another parametrisation",
        "remove it before saving: torch.nn.utils.parametrize.remove_parametrizations or remove_weight_norm",
    ),
    (
        re.compile(r"weight_(orig|mask|u)$"),
        "pruning or spectral normalisation",
        "remove it before saving: torch.nn.utils.prune.remove or remove_spectral_norm",
    ),
    (
        re.compile(r"_packed_params|weight_fake_quant|zero_point"),
        "quantised weights",
        "save the network before it is quantised",
    ),
    (
        re.compile(r"lora_[AB]"),
        "adapters (LoRA) beside the weights",
        "merge them before saving: model.merge_and_unload()",
    ),
)


class MismatchError(Exception):
    """The tensors are not the network's; the message says why."""


@dataclass(frozen=True)
class FileLayer:
    """The tensors of one layer of a file by our names of parameters, each with its own name."""

    name: str
    tensors: dict[str, tuple[str, Tensor]]

    @property
    def signature(self) -> tuple[tuple[str, Shape], ...]:
        return tuple(sorted((role, tensor.shape) for role, (_, tensor) in self.tensors.items()))


@dataclass(frozen=True)
class Match:
    """The tensor of each parameter with its name in the file, their layout, and tensors that were left out.

    `exact` is whether the layers have our names. `without_bias` are the file's layers that have none; zeros stand for
    it.
    """

    tensors: dict[str, tuple[str, Tensor]]
    layout: str
    exact: bool
    left_out: tuple[str, ...]
    without_bias: tuple[str, ...]


def match(table: Table, network: Network, *, ordered: bool) -> Match:
    """Match a table, or only the tensors below one prefix, with a network; raise MismatchError if there is none.

    Raises MismatchError as well if the tensors below several prefixes fit equally well.
    """
    kept = {name: tensor for name, tensor in table.items() if not _is_bookkeeping(name, tensor)}
    left_out = tuple(name for name in table if name not in kept)
    _require_plain_parameters(kept)
    try:
        return _match_all(kept, network, left_out, ordered=ordered)
    except MismatchError as error:
        fitting = {}
        for prefix in _prefixes(kept):
            below = {name: tensor for name, tensor in kept.items() if name.startswith(prefix)}
            others = tuple(name for name in table if name not in below)
            try:
                fitting[prefix] = _match_all(below, network, others, ordered=ordered)
            except MismatchError:
                continue
        if not fitting:
            raise
        # The shortest prefix of several nested ones names the most tensors.
        outermost = [
            prefix for prefix in fitting if not any(prefix != other and prefix.startswith(other) for other in fitting)
        ]
        if len(outermost) > 1:
            raise MismatchError(
                f"the tensors of {' and of '.join(outermost)} fit equally well; name one with --key"
            ) from error
        return fitting[outermost[0]]


def _is_bookkeeping(name: str, tensor: Tensor) -> bool:
    return not tensor.shape or bool(BOOKKEEPING.search(name))


def _require_plain_parameters(table: Table) -> None:
    for pattern, what, remedy in REPARAMETRISED:
        if name := next((name for name in table if pattern.search(name)), None):
            raise MismatchError(f"{name} is of {what}, not a weight; {remedy}")


def _prefixes(table: Table) -> list[str]:
    """Return all prefixes of names that end in a dot or slash, and that some names do not have."""
    ends = {name[: found.end()] for name in table for found in re.finditer(r"[./]", name)}
    return sorted(end for end in ends if not all(name.startswith(end) for name in table))


def _match_all(table: Table, network: Network, left_out: tuple[str, ...], *, ordered: bool) -> Match:
    stored = file_layers(table)
    wanted = [placed for placed in network.place() if placed.parameter_shapes]
    reason = ""
    for layout in (PYTORCH_LAYOUT, KERAS_LAYOUT):
        signatures = {placed.name: _signature(placed, layout) for placed in wanted}
        layers = [_with_bias(layer, layout) for layer in stored]
        if sorted(layer.signature for layer in layers) == sorted(signatures.values()):
            assigned, exact = _assign(layers, signatures, ordered=ordered)
            tensors = {
                f"{name}.{role}": tensor for name, layer in assigned.items() for role, tensor in layer.tensors.items()
            }
            without_bias = tuple(layer.name for layer in stored if layer.tensors.keys() == {"weight"})
            found = {name: tensors[name] for name in network.parameter_shapes}
            return Match(found, layout, exact, left_out, without_bias)
        reason = reason or _difference(layers, signatures)
    raise MismatchError(reason)


def file_layers(table: Table) -> list[FileLayer]:
    """Group tensors to layers by their names; the last part of a name is the parameter's."""
    groups: dict[str, dict[str, tuple[str, Tensor]]] = defaultdict(dict)
    for name, tensor in table.items():
        layer, _, parameter = name.removesuffix(":0").replace("/", ".").rpartition(".")
        groups[layer][parameter] = name, tensor
    layers = []
    for layer, tensors in groups.items():
        is_norm = bool(STATISTICS & tensors.keys())
        roles = NORM_ROLES if is_norm else KERNEL_ROLES
        layers.append(FileLayer(layer, {roles.get(name, name): tensor for name, tensor in tensors.items()}))
    return layers


def _with_bias(layer: FileLayer, layout: str) -> FileLayer:
    """Give a layer that has nothing but a kernel a bias of zeros, which is what having none means."""
    if layer.tensors.keys() != {"weight"}:
        return layer
    _, kernel = layer.tensors["weight"]
    shape = (kernel.shape or (0,))[:1] if layout == PYTORCH_LAYOUT else kernel.shape[-1:]
    zeros = Tensor(FP32, shape, lambda: np.zeros(shape, np.float32))
    return FileLayer(layer.name, layer.tensors | {"bias": (f"{layer.name}.bias", zeros)})


def _signature(placed: PlacedLayer, layout: str) -> tuple[tuple[str, Shape], ...]:
    shapes = placed.parameter_shapes.items()
    return tuple(sorted((name.rpartition(".")[2], shape_in(layout, shape)) for name, shape in shapes))


def _assign(
    layers: list[FileLayer], signatures: dict[str, tuple[tuple[str, Shape], ...]], *, ordered: bool
) -> tuple[dict[str, FileLayer], bool]:
    """Return the file's layer of each layer of ours, and whether they have the same names.

    Layers of the same shapes are told apart by our names, by the numbers in theirs, or by a file that keeps the order
    of all layers. Raises MismatchError where these disagree, or where there are none.
    """
    named = {layer.name.rpartition(".")[2]: layer for layer in layers}
    if named.keys() == signatures.keys():
        if odd := [name for name, layer in named.items() if layer.signature != signatures[name]]:
            raise MismatchError(f"{', '.join(odd)} have the shapes of other layers")
        return named, True
    in_order = ordered and [layer.signature for layer in layers] == list(signatures.values())
    assigned: dict[str, FileLayer] = {}
    for signature in dict.fromkeys(signatures.values()):
        names = [name for name, other in signatures.items() if other == signature]
        alike = [layer for layer in layers if layer.signature == signature]
        numbered = _by_number(alike)
        if len(alike) > 1 and not in_order and not numbered:
            raise MismatchError(
                f"{' and '.join(layer.name for layer in alike)} have the same shapes, and neither numbers nor the "
                f"order of the file tell them apart; name them {' and '.join(names)}"
            )
        if in_order and numbered and [layer.name for layer in numbered] != [layer.name for layer in alike]:
            raise MismatchError(
                f"{' and '.join(layer.name for layer in alike)} have the same shapes, and their numbers contradict "
                f"the order of the file; name them {' and '.join(names)}"
            )
        assigned |= dict(zip(names, numbered or alike, strict=True))
    return assigned, False


def _by_number(layers: list[FileLayer]) -> list[FileLayer] | None:
    """Sort layers whose names differ in numbers alone; a name without a number, as Keras's first one, comes first."""
    keys = [[int(number) for number in re.findall(r"\d+", layer.name)] for layer in layers]
    stems = {re.sub(r"_?\d+", "#", layer.name).rstrip("#") for layer in layers}
    longest = max(map(len, keys))
    padded = [tuple(key + [-1] * (longest - len(key))) for key in keys]
    if len(stems) > 1 or len(set(padded)) < len(padded):
        return None
    return [layer for _, layer in sorted(zip(padded, layers, strict=True), key=lambda pair: pair[0])]


def _difference(layers: list[FileLayer], signatures: dict[str, tuple[tuple[str, Shape], ...]]) -> str:
    """Return the first layer of the network that the file lacks, or the first one that the network lacks."""
    left = list(layers)
    for name, signature in signatures.items():
        for layer in left:
            if layer.signature == signature:
                left.remove(layer)
                break
        else:
            needed = ", ".join(f"{role} {shape}" for role, shape in signature)
            held = [
                f"{layer.name} has {', '.join(f'{role} {shape}' for role, shape in layer.signature)}" for layer in left
            ]
            return f"no layer of it has what {name} needs ({needed})" + (f"; {held[0]}" if held else "")
    names = ", ".join(name for name, _ in left[0].tensors.values())
    return f"the network has no such layer as {left[0].name or 'that'} of {names}"
