"""Create, load, save and identify the weights of a network."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from math import isfinite, nan, prod, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError
from models.files import atomic_write, mappable

if TYPE_CHECKING:
    from models.spec import Network, Shape

Weights: TypeAlias = dict[str, NDArray[np.float32]]

CHECKPOINTS = Path(__file__).parent / "checkpoints"
# The key of the metadata with the mean and deviation of an imported network's pixels.
PIXELS = "pixels"
# Room for the history of a training beside the names and shapes.
MOST_HEADER_BYTES = 1 << 24


class WeightsError(UserError):
    """A file of weights can't be read or does not fit the network."""


# Kernels are uniform within +-sqrt(VALUE / fan-in): He et al. 2015, and the default of PyTorch's modules.
INITIAL = {"he": 6, "pytorch": 1}


def initial_weights(network: Network, seed: int, initial: str = "he") -> Weights:
    """Return random kernels, distributed as INITIAL names it, from a RandomState, whose streams never change.

    Biases, shifts and running means are zero, scales and running variances one.
    """
    random = np.random.RandomState(seed)
    return {name: _initial(name, shape, random, INITIAL[initial]) for name, shape in network.parameter_shapes.items()}


def _initial(name: str, shape: Shape, random: np.random.RandomState, spread: int) -> NDArray[np.float32]:
    if len(shape) == 1:
        return np.full(shape, name.endswith((".scale", ".variance")), np.float32)
    limit = sqrt(spread / prod(shape[:-1]))
    return random.uniform(-limit, limit, shape).astype(np.float32)


def digest(weights: Weights) -> str:
    """Return the SHA-256 of names, shapes and values, independent of the order of the names."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        sha.update(f"{name}{weights[name].shape}".encode())
        sha.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return sha.hexdigest()


def checkpoint_path(network: Network) -> Path:
    return Path(network.checkpoint) if network.checkpoint else CHECKPOINTS / f"{network.name}.safetensors"


def save_weights(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    """Write a safetensors file atomically."""
    from safetensors.numpy import save

    # The format has no strides: it writes the memory as it is laid out.
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    with atomic_write(path) as partial:
        partial.write_bytes(save(arrays, metadata or None))


def require_small_header(path: Path) -> None:
    """Raise WeightsError for a description of tensors that only a hostile file has: it takes much memory to read."""
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
    except OSError as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error})") from error
    if length > MOST_HEADER_BYTES:
        raise WeightsError(
            f"{path}: can't be read as safetensors (its header has {length:,} bytes; allowed: {MOST_HEADER_BYTES:,})"
        )


def load_arrays(path: Path) -> Weights:
    """Read a safetensors file, and widen bf16, which NumPy lacks, to fp32; raise WeightsError when it can't be read."""
    from safetensors import SafetensorError, deserialize, safe_open
    from safetensors.numpy import load_file

    require_small_header(path)
    try:
        with mappable(path) as source:
            with safe_open(source, framework="numpy") as file:
                types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            if "BF16" not in types.values():
                return load_file(source)
            stored = deserialize(source.read_bytes())  # type: ignore[no-untyped-call] # it has no annotations
    # Numbers of types that NumPy lacks are KeyError, shapes that it can't have are ValueError.
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error})") from error
    if odd := sorted(name for name, kind in types.items() if kind != "BF16"):
        raise WeightsError(f"{path}: mixes bf16 with other types ({odd[0]}); save all its tensors in one type")
    return {name: widen_bf16(np.frombuffer(about["data"], "<u2")).reshape(about["shape"]) for name, about in stored}


def widen_bf16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the numbers whose upper halves, as fp32, are these bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def read_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file; raise WeightsError when it can't be read."""
    from safetensors import SafetensorError, safe_open

    require_small_header(path)
    try:
        with mappable(path) as source, safe_open(source, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error})") from error


def pixel_metadata(pixels: tuple[float, float]) -> dict[str, str]:
    """Return the metadata of a file whose network standardises pixels with this mean and deviation."""
    mean, deviation = pixels
    return {PIXELS: f"{mean!r},{deviation!r}"}


def standardised_as_in(path: Path, network: Network) -> Network:
    """Return the network with the mean and deviation of pixels that a file of weights names, if it does.

    Raises WeightsError when the file can't be read, or names no such numbers.
    """
    if (text := read_metadata(path).get(PIXELS)) is None:
        return network
    try:
        mean, deviation = map(float, text.split(","))
    except ValueError:
        mean, deviation = nan, nan
    if not (isfinite(mean) and isfinite(deviation) and deviation > 0):
        raise WeightsError(f"{path}: its metadata has '{PIXELS}' {text[:40]!r}, not a mean and a deviation")
    return replace(network, mean=mean, std=deviation)


def load_weights(path: Path, network: Network) -> Weights:
    """Read a safetensors file; raise WeightsError when it can't be read or does not fit the network."""
    weights = load_arrays(path)
    require_fit(path, weights, network)
    return weights


def require_fit(path: Path, weights: Weights, network: Network) -> None:
    """Raise WeightsError when names, shapes or types of weights read from `path` are not the network's."""
    actual = {name: (array.shape, array.dtype) for name, array in weights.items()}
    expected = {name: (shape, np.dtype(np.float32)) for name, shape in network.parameter_shapes.items()}
    if actual != expected:
        odd = sorted(name for name in actual.keys() | expected.keys() if actual.get(name) != expected.get(name))
        raise WeightsError(f"{path}: does not fit {network.name}; these parameters differ: {', '.join(odd)}")
