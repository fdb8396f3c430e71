"""Read and write Keras's files: HDF5 of either kind, and the archives that hold one."""

from __future__ import annotations

import io
import re
import zipfile
from contextlib import contextmanager
from functools import partial
from itertools import count, takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from models.files import atomic_write
from models.formats.contents import Contents, Tensor, type_name
from models.formats.kind import KERAS_ARCHIVE, KERAS_CONFIG, KERAS_WEIGHTS
from models.weights import Weights, WeightsError, widen_bf16

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from models.formats.contents import Table
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
# Keras's classes of our layers as its newer files write them, with a number from the second of a class on.
SNAKE_CASE = {"conv2d": "conv2d", "dense": "dense", "batchnorm": "batch_normalization"}
# The end of the names that newer files have, and the groups in them that are not the model's.
NEWER_SUFFIX, OPTIMIZER = ".weights.h5", "optimizer"
# The variables of a layer, which newer files number, by how many axes each has.
NUMBERED = {
    (4, 1): ("kernel", "bias"),
    (2, 1): ("kernel", "bias"),
    (4,): ("kernel",),
    (2,): ("kernel",),
    (1, 1, 1, 1): ("gamma", "beta", "moving_mean", "moving_variance"),
}
MOST_OBJECTS = 20_000
BFLOAT16_BYTES = 2


def write_keras(path: Path, network: Network, weights: Weights) -> None:
    """Write a file that Keras's `load_weights` reads under this name, atomically.

    The name decides which of its two formats Keras expects.
    """
    import h5py

    write = _write_newer if path.name.endswith(NEWER_SUFFIX) else _write_older
    with atomic_write(path) as partial_path, h5py.File(partial_path, "w", locking=False) as file:
        write(file, network, weights)


def _write_older(file: Any, network: Network, weights: Weights) -> None:
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


def _write_newer(file: Any, network: Network, weights: Weights) -> None:
    # Keras 2.15 reads the model's own variables, of which there are none.
    file.create_group("vars")
    for placed in network.place():
        if placed.parameter_shapes:
            kind, number = re.fullmatch(r"(\w+?)(\d+)", placed.name).groups()  # type: ignore[union-attr] # PlacedLayer's
            suffix = f"_{int(number) - 1}" if int(number) > 1 else ""
            group = file.create_group(f"layers/{SNAKE_CASE[kind]}{suffix}/vars")
            group.attrs["name"] = placed.name
            for index, name in enumerate(placed.parameter_shapes):
                group.create_dataset(str(index), data=weights[name])


@contextmanager
def open_keras(path: Path, kind: str) -> Iterator[Contents]:
    """Yield the content of a file; its tensors can be read while it is open.

    Raises WeightsError when it can't be read.
    """
    import h5py

    try:
        config, source = None, path
        if kind == KERAS_ARCHIVE:
            with zipfile.ZipFile(path) as archive:
                config = archive.read(KERAS_CONFIG).decode()
                source = io.BytesIO(archive.read(KERAS_WEIGHTS))  # type: ignore[assignment] # h5py takes both
        with h5py.File(source, "r", locking=False) as file:
            yield _contents(file, config)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, zipfile.BadZipFile) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: can't be read as Keras's weights ({error})") from error


def _contents(file: Any, config: str | None) -> Contents:
    stated = file.attrs.get("model_config")
    if config is None and stated is not None:
        config = stated.decode() if isinstance(stated, bytes) else str(stated)
    root = _inside(file, "model_weights") if "model_weights" in file else file
    others = tuple(name for name in file if name.startswith(OPTIMIZER))
    if "layer_names" in root.attrs or "layer_names0" in root.attrs:
        return Contents({"": _older_table(root)}, others, ordered=True, config=config)
    return Contents({"": _newer_table(root)}, others, ordered=False, config=config)


def _older_table(root: Any) -> Table:
    """Return the tensors that the attributes name, in the order of the layers."""
    table = {}
    for layer in _names(root, "layer_names"):
        group = _inside(root, layer)
        for name in _names(group, "weight_names"):
            table[f"{layer}/{name}"] = _tensor(_inside(group, name), f"{layer}/{name}")
    return table


def _names(group: Any, attribute: str) -> list[str]:
    """Return the names in an attribute, or in the numbered ones into which Keras divides a long list."""
    if attribute in group.attrs:
        lists = [group.attrs[attribute]]
    else:
        numbered = takewhile(lambda name: name in group.attrs, (f"{attribute}{index}" for index in count()))
        lists = [group.attrs[name] for name in numbered]
    if not lists:
        raise KeyError(f"{attribute} is missing")
    return [name.decode() if isinstance(name, bytes) else str(name) for names in lists for name in names]


def _newer_table(root: Any) -> Table:
    """Return all datasets by their paths; numbers of variables become their names."""
    table: Table = {}
    groups: dict[str, dict[str, Any]] = {}
    for path, dataset in _datasets(root):
        parent, _, name = path.rpartition("/")
        groups.setdefault(parent, {})[name] = dataset
    for parent, datasets in groups.items():
        numbered = sorted(datasets, key=lambda name: (len(name), name))
        axes = tuple(len(datasets[name].shape or ()) for name in numbered)
        known = parent.rpartition("/")[2] == "vars" and numbered == [str(index) for index in range(len(numbered))]
        names = NUMBERED.get(axes, numbered) if known else numbered
        for stored, name in zip(numbered, names, strict=True):
            table[f"{parent.removesuffix('/vars')}/{name}".lstrip("/")] = _tensor(
                datasets[stored], f"{parent}/{stored}"
            )
    return table


def _datasets(root: Any) -> Iterator[tuple[str, Any]]:
    """Yield the datasets of a file with their paths, the optimiser's left out."""
    import h5py

    groups, seen = [("", root)], 0
    while groups:
        path, group = groups.pop()
        for name in group:
            seen += 1
            if seen > MOST_OBJECTS:
                raise ValueError(f"it has more than {MOST_OBJECTS:,} objects")
            if not path and name.startswith(OPTIMIZER):
                continue
            item, below = _inside(group, name), f"{path}/{name}".lstrip("/")
            if isinstance(item, h5py.Dataset):
                yield below, item
            else:
                groups.append((below, item))


def _inside(group: Any, name: str) -> Any:
    """Return the object that the file itself holds under a name; raises KeyError for a link to elsewhere."""
    import h5py

    item = group
    for part in name.split("/"):
        if not isinstance(item.get(part, getlink=True), h5py.HardLink):
            raise KeyError(f"{part} of {name} is not in the file itself")
        item = item[part]
    return item


def _tensor(dataset: Any, name: str) -> Tensor:
    """Return a tensor; raises ValueError for an array that is not stored in the file at its own size."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise TypeError(f"{name} is not an array")
    shape = tuple(dataset.shape or ())
    # A chunk larger than the array makes a small file fill the memory.
    oversized = dataset.chunks is not None and np.prod(dataset.chunks) > max(1, dataset.size or 0)
    if dataset.is_virtual or dataset.external or oversized:
        raise ValueError(f"{name} is not stored as an array of its size in the file itself")
    stored = dataset.dtype
    if stored.kind == "V" and stored.itemsize == BFLOAT16_BYTES:
        return Tensor("bf16", shape, partial(_widened, dataset))
    return Tensor(type_name(stored.name), shape, lambda: np.asarray(dataset[()]))


def _widened(dataset: Any) -> NDArray[np.float32]:
    return widen_bf16(np.asarray(dataset[()]).view(np.uint16))
