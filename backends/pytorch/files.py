"""Read PyTorch's files of tensors, and never run the code that they may hold; write state dicts."""

from __future__ import annotations

import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from backends.pytorch.layers import build_module
from models.formats.contents import Contents, Tensor, type_name
from models.formats.kind import SAVE_STATE_DICT
from models.weights import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from models.formats.contents import Table
    from models.spec import Network
    from models.weights import Weights

# How deep mappings are searched for tables of tensors.
MOST_LEVELS = 4
# PyTorch names an object that it refuses to make in one of these ways.
REFUSED_OBJECT = re.compile(r"GLOBAL ([\w.]+)|class ([\w.]+)")


def read_contents(path: Path) -> Contents:
    """Return the tables of tensors in a file; objects of other classes in it become empty ones.

    Raises WeightsError when it can't be read.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            classes = _foreign_classes(path)
            with torch.serialization.safe_globals([(type("Opaque", (_Opaque,), {}), name) for name in classes]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        named = REFUSED_OBJECT.search(str(error))
        what = (
            f"objects such as {named[1] or named[2]}" if named else f"damage or other objects, {type(error).__name__}"
        )
        raise WeightsError(
            f"{path}: can't be read as a file of tensors, and nothing else is allowed ({what}); {SAVE_STATE_DICT}"
        ) from error
    tables = dict(_tables(content, "", MOST_LEVELS))
    others = content if isinstance(content, dict) and "" not in tables else {}
    named_others = tuple(str(name) for name in others if not any(_is_at(table, str(name)) for table in tables))
    beside = _not_tensors(content) if "" in tables else ()
    # The user's own classes say most.
    return Contents(tables, named_others + beside, opaque=tuple(sorted(classes, key=_is_of_library)))


def _is_of_library(name: str) -> bool:
    return name.startswith(("torch.", "numpy.", "builtins.", "collections."))


class _Opaque:
    """Stands for an object of a class in the file, of which nothing is called or kept."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def _foreign_classes(path: Path) -> list[str]:
    """Return the names of classes and functions in a file that PyTorch does not make from files of tensors."""
    import torch

    try:
        names: list[str] = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:
        # The format before PyTorch 1.6 has no directory to look into.
        return []
    return names


def _tables(content: Any, key: str, levels: int) -> Iterator[tuple[str, Table]]:
    """Yield the mappings from names to tensors, outermost first."""
    import torch

    if not isinstance(content, dict) or not levels:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if table := {name: _tensor(value) for name, value in named.items() if isinstance(value, torch.Tensor)}:
        yield key, table
    for name, value in named.items():
        yield from _tables(value, f"{key}.{name}".lstrip("."), levels - 1)


def _is_at(table: str, name: str) -> bool:
    return table == name or table.startswith(f"{name}.")


def _not_tensors(content: Mapping[Any, Any]) -> tuple[str, ...]:
    import torch

    return tuple(str(name) for name, value in content.items() if not isinstance(value, torch.Tensor | dict))


def _tensor(tensor: Any) -> Tensor:
    import torch

    flaw = ""
    if tensor.is_meta:
        flaw = f"is on the meta device, so the file has no numbers of it; {SAVE_STATE_DICT}, once it has its weights"
    elif tensor.is_quantized:
        flaw = "is quantised; save the network before it is quantised"
    elif tensor.is_nested or tensor.layout != torch.strided:
        flaw = "is sparse or nested; save it as an ordinary tensor: tensor.to_dense()"
    dtype = type_name(str(tensor.dtype).removeprefix("torch."))
    return Tensor(dtype, tuple(tensor.shape) if not tensor.is_nested else (), partial(_numbers, tensor), flaw)


def _numbers(tensor: Any) -> NDArray[Any]:
    import torch

    wide = tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    array: NDArray[Any] = wide.contiguous().numpy()
    return array


def write_model(path: Path, network: Network, weights: Weights) -> None:
    import torch

    torch.save(build_module(network, weights).state_dict(), path)
