"""Read and write weights as Keras does with `save_weights("name.h5")`: for other tools."""

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
    """Write the weights under a temporary name, then rename the file; Keras's `load_weights` reads it."""
    import h5py

    with atomic_write(path) as partial, h5py.File(partial, "w") as file:
        layers = [placed.name for placed in network.place() if placed.parameter_shapes]
        file.attrs["layer_names"] = [name.encode() for name in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.15.0"
        for placed in network.place():
            names = {f"{placed.name}/{KERAS[each.rpartition('.')[2]]}": each for each in placed.parameter_shapes}
            if names:
                group = file.create_group(placed.name)
                group.attrs["weight_names"] = [name.encode() for name in names]
                for name, ours in names.items():
                    group.create_dataset(name, data=weights[ours])


def read_h5(path: Path, network: Network) -> Weights:
    """Read weights in the order of the layers that hold any, whatever these are called.

    Raises WeightsError when the file can't be read, or holds other weights than the network's.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            root = _inside(file, "model_weights") if "model_weights" in file else file
            layers = [_inside(root, name) for name in _names(root, "layer_names")]
            found = [_inside(layer, name) for layer in layers for name in _names(layer, "weight_names")]
            _require_shapes(path, network, found)
            read = (np.asarray(each, np.float32) for each in found)
            weights = dict(zip(network.parameter_shapes, read, strict=True))
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: can't be read as Keras's weights ({error})") from error
    require_fit(path, weights, network)
    return weights


def _inside(group: Any, name: str) -> Any:
    """Return what a file holds under a name itself: no link leads elsewhere, and no array is stored or made elsewhere.

    Raises KeyError or ValueError otherwise.
    """
    import h5py

    found = group
    for part in name.split("/"):
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"{part} of {name} is not in the file itself")
        found = found[part]
    if isinstance(found, h5py.Dataset):
        unfolded = found.chunks is not None and np.prod(found.chunks) > max(1, found.size)
        if found.is_virtual or found.external or unfolded:
            raise ValueError(f"{name} is not stored as an array of its size in the file itself")
    return found


def _names(group: Any, attribute: str) -> list[str]:
    return [name.decode() if isinstance(name, bytes) else str(name) for name in group.attrs[attribute]]


def _require_shapes(path: Path, network: Network, found: list[Any]) -> None:
    """Raise WeightsError, before anything is read, for arrays of other shapes."""
    shapes = [tuple(each.shape) for each in found]
    wanted = list(network.parameter_shapes.values())
    if shapes != wanted:
        pairs = (pair for pair in zip(shapes, wanted, strict=False) if pair[0] != pair[1])
        held, needed = next(pairs, (f"{len(shapes)} arrays", len(wanted)))
        raise WeightsError(f"{path}: does not fit {network.name}: it holds {held} where {needed} is wanted")
