"""What a file holds, whatever its kind: tables of tensors by name, other entries, and what it says of its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from models.weights import WeightsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import Shape

# Types whose numbers are weights as they are. All of them are read as fp32.
FP32, FLOATING = "fp32", ("fp32", "bf16", "fp16", "fp64")
# The types of NumPy and of safetensors by the names that are used here; other types keep their names.
TYPE_NAMES = {
    "float32": "fp32", "F32": "fp32", "bfloat16": "bf16", "BF16": "bf16", "float16": "fp16", "F16": "fp16",
    "float64": "fp64", "F64": "fp64", "I8": "int8", "U8": "uint8", "I16": "int16", "U16": "uint16", "I32": "int32",
    "U32": "uint32", "I64": "int64", "U64": "uint64", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
TYPE_REMEDY = "save the weights in fp32: model.float() in PyTorch, a float32 policy in Keras"


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read only when it is needed. A `flaw` is why it has no plain numbers, such as "is sparse"."""

    dtype: str
    shape: Shape
    read: Callable[[], NDArray[Any]]
    flaw: str = ""


Table: TypeAlias = dict[str, Tensor]


@dataclass(frozen=True)
class Stated:
    """What a file says of its network, beside the weights. None means that the file does not say it.

    `epsilons` and `norm_first` have an item for each batch normalisation, in the order of the layers. `norm_first` is
    whether it comes before the activation. `pixels` are the mean and the deviation of pixels that are scaled to [0, 1].
    """

    layout: str | None = None
    epsilons: tuple[float, ...] | None = None
    norm_first: tuple[bool, ...] | None = None
    pixels: tuple[float, float] | None = None


@dataclass(frozen=True)
class Contents:
    """The content of a file.

    `tables` are mappings from names to tensors, by their own names ("" is the file itself). `others` are its other
    entries. The tensors are `ordered` if the file keeps the order of the layers. `config` is Keras's description of the
    network, as JSON. `opaque` are the classes of objects that were not read.
    """

    tables: dict[str, Table]
    others: tuple[str, ...] = ()
    ordered: bool = True
    config: str | None = None
    opaque: tuple[str, ...] = ()


def type_name(dtype: str) -> str:
    return TYPE_NAMES.get(dtype, dtype)


def require_floating(path: Path, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise WeightsError for tensors that have no plain floating-point numbers, before any of them is read."""
    named = dict(tensors)
    for name, tensor in named.items():
        if tensor.flaw:
            raise WeightsError(f"{path}: {name} {tensor.flaw}")
    for dtype in dict.fromkeys(tensor.dtype for tensor in named.values()):
        if dtype not in FLOATING:
            names = [name for name, tensor in named.items() if tensor.dtype == dtype]
            more = f" and {len(names) - 1} more tensors are" if len(names) > 1 else " is"
            raise WeightsError(
                f"{path}: {names[0]}{more} of type {dtype}; allowed: {', '.join(FLOATING)}; {TYPE_REMEDY}"
            )


def read_fp32(path: Path, name: str, tensor: Tensor) -> NDArray[np.float32]:
    """Read a tensor as fp32; raise WeightsError if a number of it is not finite, or overflows."""
    numbers = tensor.read()
    with np.errstate(over="ignore"):
        array = np.asarray(numbers, np.float32)
    if count := int(array.size - np.isfinite(array).sum()):
        finite = int(np.isfinite(numbers).sum()) == numbers.size
        what = "larger than fp32 can hold" if finite else "not finite (NaN or infinite)"
        raise WeightsError(
            f"{path}: {name} has {count:,} of {array.size:,} numbers that are {what}; such a network has no meaningful "
            "output: take an earlier checkpoint"
        )
    return array
