"""Create, load, save and identify the weights of a network."""

from __future__ import annotations

import hashlib
from math import prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from models.files import atomic_write

if TYPE_CHECKING:
    from models.spec import Network, Shape

Weights: TypeAlias = dict[str, NDArray[np.float32]]

CHECKPOINTS = Path(__file__).parent / "checkpoints"


class WeightsError(UserError):
    """A checkpoint that can't be read or does not fit the network."""


# Kernels are uniform up to the root of this over their fan-in: He et al. 2015, and what PyTorch's modules begin with.
INITIAL = {"he": 6, "pytorch": 1}


def initial_weights(network: Network, seed: int, initial: str = "he") -> Weights:
    """Draw uniform kernels, by a name of INITIAL, from a RandomState, whose streams never change.

    Biases, shifts and running means begin at zero, scales and running variances at one.
    """
    random = np.random.RandomState(seed)
    return {name: _initial(name, shape, random, INITIAL[initial]) for name, shape in network.parameter_shapes.items()}


def _initial(name: str, shape: Shape, random: np.random.RandomState, spread: int) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.full(shape, name.endswith((".scale", ".variance")), np.float32)
    limit = sqrt(spread / prod(shape[:-1]))
    return random.uniform(-limit, limit, shape).astype(np.float32)


def digest(weights: Weights) -> str:
    """Return the SHA-256 over names, shapes and values, independent of the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(f"{name}{weights[name].shape}".encode())
        sha.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return sha.hexdigest()


def checkpoint_path(network: Network) -> Path:
    """Return where the trained checkpoint of `network` lies in the package."""
    return CHECKPOINTS / f"{network.name}.safetensors"


def save_weights(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it, so that a half file never bears the name."""
    from safetensors.numpy import save

    # The format knows no strides: what it writes is the memory as it lies.
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    with atomic_write(path) as partial:
        partial.write_bytes(save(arrays, metadata or None))


def load_arrays(path: Path) -> Weights:
    """Read the safetensors file at `path`; raises WeightsError when it can't be."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error})") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return what the safetensors file at `path` says of itself; raises WeightsError when it can't be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error})") from error


def load_weights(path: Path, network: Network) -> Weights:
    """Read the safetensors file at `path`.

    Raises WeightsError when it can't be read, or when names, shapes or types are not the network's.
    """
    weights = load_arrays(path)
    require_fit(path, weights, network)
    return weights


def require_fit(path: Path, weights: Weights, network: Network) -> None:
    """Raise WeightsError when names, shapes or types of what was read from `path` are not the network's."""
    found = {name: (array.shape, array.dtype) for name, array in weights.items()}
    wanted = {name: (shape, np.dtype(np.float32)) for name, shape in network.parameter_shapes.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise WeightsError(f"{path}: does not fit {network.name}; these parameters differ: {', '.join(odd)}")
