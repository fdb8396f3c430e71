"""Read and write weights in Keras's HDF5 format, as `save_weights("name.h5")` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from models.files import atomic_write
from models.weights import Weights, WeightsError, require_fit

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import Network

# Keras's names of our parameters, in the order in which its layers hold them.
KERAS = {
    "weight": "kernel:0",
    "bias": "bias:0",
    "scale": "gamma:0",
    "shift": "beta:0",
    "mean": "moving_mean:0",
    "variance": "moving_variance:0",
}


def write_h5(path: Path, network: Network, weights: Weights) -> None:
    """Write a file that Keras's `load_weights` reads, atomically."""
    import h5py

    # Many network file systems have no locks.
    with atomic_write(path) as partial, h5py.File(partial, "w", locking=False) as file:
        layers = [placed.name for placed in network.place() if placed.parameter_shapes]
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.15.0"
        for placed in network.place():
            names = {f"{placed.name}/{KERAS[name.rpartition('.')[2]]}": name for name in placed.parameter_shapes}
            if names:
                group = file.create_group(placed.name)
                group.attrs["weight_names"] = [keras.encode() for keras in names]
                for keras, name in names.items():
                    group.create_dataset(keras, data=weights[name])


def read_h5(path: Path, network: Network) -> Weights:
    """Read weights by the order of the layers, whatever their names.

    Raises WeightsError when the file can't be read or does not fit the network.
    """
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            root = _inside(file, "model_weights") if "model_weights" in file else file
            layers = [_inside(root, name) for name in _names(root, "layer_names")]
            stored = [_inside(layer, name) for layer in layers for name in _names(layer, "weight_names")]
            _require_shapes(path, network, stored)
            arrays = (np.asarray(dataset, np.float32) for dataset in stored)
            weights = dict(zip(network.parameter_shapes, arrays, strict=True))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: can't be read as Keras's weights ({error})") from error
    require_fit(path, weights, network)
    return weights


def _inside(group: Any, name: str) -> Any:
    """Return the object that the file itself holds under a name.

    Raises KeyError for a link to elsewhere, and ValueError for an array that is not stored in the file at its own size.
    """
    import h5py

    item = group
    for part in name.split("/"):
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"{part} of {name} is not in the file itself")
        item = item[part]
    if isinstance(item, h5py.Dataset):
        # A chunk larger than the array makes a small file fill the memory.
        oversized = item.chunks is not None and np.prod(item.chunks) > max(1, item.size)
        if item.is_virtual or item.external or oversized:
            raise ValueError(f"{name} is not stored as an array of its size in the file itself")
    return item


def _names(group: Any, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _require_shapes(path: Path, network: Network, stored: list[Any]) -> None:
    """Raise WeightsError for arrays of other shapes, before any of them is read."""
    actual = [tuple(dataset.shape) for dataset in stored]
    expected = list(network.parameter_shapes.values())
    if actual != expected:
        pairs = (pair for pair in zip(actual, expected, strict=False) if pair[0] != pair[1])
        held, needed = next(pairs, (f"{len(actual)} arrays", len(expected)))
        raise WeightsError(f"{path}: does not fit {network.name}: it holds {held} where {needed} is expected")
