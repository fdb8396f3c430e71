"""Turn the content of a file into weights of ours, and say what was taken and what was assumed."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from models.errors import UserError, unknown
from models.formats.contents import FP32, Contents, Stated, read_fp32, require_floating
from models.formats.keras_config import stated_by
from models.formats.kind import SAVE_STATE_DICT
from models.formats.layouts import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    PYTORCH_LAYOUT,
    flattened_channels_last,
    fold_epsilons,
    fold_norms_before_activations,
    from_layout,
    norms_of,
)
from models.formats.match import Match, MismatchError, match
from models.spec import BatchNorm
from models.weights import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from models.formats.contents import Table
    from models.spec import Network
    from models.weights import Weights

V = TypeVar("V")

LAYOUTS = (CHANNELS_FIRST, CHANNELS_LAST)
NORM_AFTER, NORM_BEFORE = "after-activation", "before-activation"
NORMS = (NORM_AFTER, NORM_BEFORE)
PYTORCH_EPSILON, KERAS_EPSILON = 1e-5, 1e-3
# Names of the weights in checkpoints, by which one of several tables that fit is chosen.
USUAL_KEYS = ("", "model_state_dict", "state_dict", "model", "net", "network", "module", "weights", "params")
MOST_NAMES = 6


@dataclass(frozen=True)
class Assumptions:
    """What a user says of a file: options of `bench import`. None is not said.

    `key` names an entry of the file, or the prefix of names. `pixels` are the mean and deviation with which the network
    standardises pixels that are scaled to [0, 1]. `norm` is the place of batch normalisation.
    """

    key: str | None = None
    bn_epsilon: float | None = None
    layout: str | None = None
    pixels: tuple[float, float] | None = None
    norm: str | None = None


NOTHING_SAID = Assumptions()


@dataclass(frozen=True)
class Reading:
    """The weights in a file, the network with the file's standardisation of pixels, and what was taken and assumed."""

    weights: Weights
    pixels: tuple[float, float]
    notes: tuple[str, ...]


def parse_assumptions(
    key: str | None, bn_epsilon: float | None, layout: str | None, pixels: str | None, norm: str | None
) -> Assumptions:
    """Check the values of options; raises UserError."""
    if bn_epsilon is not None and not 0 < bn_epsilon < 1:
        raise UserError(f"--bn-epsilon {bn_epsilon:g}: allowed: a number above 0 and below 1, such as 1e-5")
    for option, value, allowed in (("layout", layout, LAYOUTS), ("norm", norm, NORMS)):
        if value is not None and value not in allowed:
            raise unknown(option, value, allowed)
    return Assumptions(key or None, bn_epsilon, layout, _pixels(pixels) if pixels else None, norm)


def _pixels(text: str) -> tuple[float, float]:
    try:
        mean, deviation = map(float, text.split(","))
    except ValueError:
        mean, deviation = 0, 0
    if not (isfinite(mean) and isfinite(deviation) and deviation > 0):
        raise UserError(f"--pixels {text}: allowed: MEAN,DEVIATION of pixels from 0 to 1, such as 0,1 or 0.5,0.5")
    return mean, deviation


def interpret(path: Path, contents: Contents, network: Network, assumed: Assumptions) -> Reading:
    """Return the network's weights in a file; raise WeightsError if it has none, or says otherwise than `assumed`."""
    key, found = _find(path, contents, network, assumed.key)
    require_floating(path, found.tensors.values())
    stated = stated_by(path, contents.config, network) if contents.config else Stated()
    norms = norms_of(network)
    origins: dict[str, list[str]] = {"the file states": [], "as you say": [], "not in the file, so assumed": []}

    def settle(option: str, choices: tuple[V | None, V | None, V], what: str, show: Callable[[V], str]) -> V:
        """Return what the file states, else what the user says, else the default, and note which."""
        in_file, said, _ = choices
        if in_file is not None and said is not None and not _agree(in_file, said):
            raise WeightsError(f"{path}: {option} contradicts the file, which states {what} {show(in_file)}")
        given = zip(origins.values(), choices, strict=True)
        notes, value = next((notes, value) for notes, value in given if value is not None)
        notes.append(f"{what} {show(value)} ({option})")
        return value

    like_pytorch = found.layout == PYTORCH_LAYOUT
    layout = settle("--layout", (stated.layout, assumed.layout, LAYOUTS[not like_pytorch]), "flattened", str)
    usual_pixels = (network.mean, network.std)
    pixels = settle("--pixels", (stated.pixels, assumed.pixels, usual_pixels), "pixels standardised with", _both)
    if norms:
        every = len(norms)
        said = None if assumed.bn_epsilon is None else (assumed.bn_epsilon,) * every
        ours = tuple(norm.layer.epsilon for norm in norms if isinstance(norm.layer, BatchNorm))
        usual = ours if found.exact else (PYTORCH_EPSILON if like_pytorch else KERAS_EPSILON,) * every
        hint = f" where PyTorch's default is {PYTORCH_EPSILON:g}" if like_pytorch and found.exact else ""
        choices = stated.epsilons, said, usual
        epsilons = settle("--bn-epsilon", choices, "batch-norm epsilon", lambda each: _distinct(each) + hint)
        before = None if assumed.norm is None else (assumed.norm == NORM_BEFORE,) * every
        norm_first = settle("--norm", (stated.norm_first, before, (False,) * every), "batch norm", _places)

    weights = {
        name: from_layout(found.layout, read_fp32(path, stored, tensor))
        for name, (stored, tensor) in found.tensors.items()
    }
    if layout == CHANNELS_FIRST:
        weights = {name: flattened_channels_last(network, name, array) for name, array in weights.items()}
    if norms:
        _require_variances(path, found, weights, epsilons)
        weights = fold_epsilons(network, weights, epsilons)
        weights = fold_norms_before_activations(network, weights, norm_first)
    settled = [f"{origin}: {', '.join(phrases)}" for origin, phrases in origins.items() if phrases]
    return Reading(weights, pixels, (_taken(key, found, contents), *settled))


def _agree(in_file: object, said: object) -> bool:
    """Return whether two values are equal; a file may have rounded its numbers to fp32."""
    return np.allclose(in_file, said) if isinstance(in_file, tuple) else in_file == said  # type: ignore[arg-type]


def _both(pixels: tuple[float, float]) -> str:
    mean, deviation = pixels
    return f"{mean:g},{deviation:g}"


def _distinct(epsilons: tuple[float, ...]) -> str:
    return ",".join(dict.fromkeys(f"{epsilon:g}" for epsilon in epsilons))


def _places(norm_first: tuple[bool, ...]) -> str:
    return ",".join(dict.fromkeys(NORMS[first] for first in norm_first))


def _find(path: Path, contents: Contents, network: Network, key: str | None) -> tuple[str, Match]:
    """Return the table that fits the network, with its name; raises WeightsError if there is none, or several."""
    tables = contents.tables if key is None else _below(path, contents.tables, key)
    if not tables:
        if contents.opaque:
            raise WeightsError(
                f"{path}: holds an object, {contents.opaque[0]}, not tensors by name, and only tensors are read; "
                f"{SAVE_STATE_DICT}"
            )
        raise WeightsError(f"{path}: holds no tensors by name; {SAVE_STATE_DICT}")
    matches: dict[str, Match] = {}
    mismatches: dict[str, MismatchError] = {}
    for name, table in tables.items():
        try:
            matches[name] = match(table, network, ordered=contents.ordered)
        except MismatchError as error:
            mismatches[name] = error
    if not matches:
        # The largest table is the likeliest one.
        largest = max(mismatches, key=lambda name: len(tables[name]))
        where = f"{largest}: " if largest else ""
        raise WeightsError(f"{path}: does not fit {network.name}: {where}{mismatches[largest]}")
    usual = [name for name in USUAL_KEYS if name in matches] or list(matches)
    if len(matches) > 1 and usual[0] not in USUAL_KEYS:
        raise WeightsError(f"{path}: {' and '.join(matches)} fit {network.name} equally well; name one with --key")
    return usual[0], matches[usual[0]]


def _below(path: Path, tables: dict[str, Table], key: str) -> dict[str, Table]:
    """Return the table with this name, or the tensors whose names begin with it."""
    if key in tables:
        return {key: tables[key]}
    below = {
        name: {tensor: value for tensor, value in table.items() if tensor.startswith(key)}
        for name, table in tables.items()
    }
    if chosen := {name: table for name, table in below.items() if table}:
        return chosen
    raise WeightsError(
        f"{path}: has no entry or prefix {key}; entries: {_listed([name or '(the file)' for name in tables])}"
    )


def _require_variances(path: Path, found: Match, weights: Weights, epsilons: tuple[float, ...]) -> None:
    for name, array in weights.items():
        if name.endswith(".variance") and not np.all(array + min(epsilons) > 0):
            stored, _ = found.tensors[name]
            raise WeightsError(
                f"{path}: {stored} has negative numbers, so it is no variance; are its vectors in another order?"
            )


def _taken(key: str, found: Match, contents: Contents) -> str:
    dtypes = dict.fromkeys(tensor.dtype for _, tensor in found.tensors.values())
    widened = "" if list(dtypes) == [FP32] else f" in {' and '.join(dtypes)}, read as fp32"
    tables = [name for name in contents.tables if name not in ("", key)]
    left_out = [*tables, *contents.others, *found.left_out]
    rest = f"; left out: {_listed(left_out)}" if left_out else ""
    zeros = f"; without bias: {_listed(list(found.without_bias))}" if found.without_bias else ""
    count = len(found.tensors) - len(found.without_bias)
    return f"read {f'{key}, ' if key else ''}{count} tensors{widened}, {found.layout} layout{zeros}{rest}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
