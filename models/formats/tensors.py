"""Read safetensors files of any tool, with types that NumPy lacks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from models.formats.contents import Contents, Tensor, type_name
from models.weights import WeightsError, require_small_header, widen_bf16

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import Shape

NUMPY_TYPES = {"fp32": "<f4", "fp16": "<f2", "fp64": "<f8", "bf16": "<u2"}


def read_tensors(path: Path) -> Contents:
    """Return all tensors of a file, in no order of layers; raise WeightsError if it is damaged."""
    from safetensors import SafetensorError, deserialize

    require_small_header(path)
    try:
        stored = deserialize(path.read_bytes())  # type: ignore[no-untyped-call] # it has no annotations
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors ({error}); download or save it again") from error
    return Contents({"": {name: _tensor(about) for name, about in stored}}, ordered=False)


def _tensor(about: dict[str, Any]) -> Tensor:
    dtype, shape = type_name(about["dtype"]), tuple(about["shape"])
    return Tensor(dtype, shape, partial(_array, about["data"], dtype, shape))


def _array(data: bytes, dtype: str, shape: Shape) -> NDArray[Any]:
    array = np.frombuffer(data, NUMPY_TYPES[dtype]).reshape(shape)
    return widen_bf16(array) if dtype == "bf16" else array
