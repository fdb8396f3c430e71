"""Read gzip-compressed IDX, the format of the MNIST family: big-endian magic number, sizes, unsigned bytes."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import numpy as np

from models.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from models.spec import Shape

UNSIGNED_BYTE = 0x08


class DataError(UserError):
    """A data set is missing, damaged or not the official one."""


def read_idx(path: Path, shape: Shape) -> NDArray[np.uint8]:
    """Return the array in a gzip-compressed IDX file.

    Raises DataError when the file can't be read, is truncated or corrupted, or holds anything but unsigned bytes with
    exactly this shape.
    """
    header_bytes = 4 + 4 * len(shape)
    body_bytes = int(np.prod(shape))
    content = _decompress(path, header_bytes + body_bytes + 1)
    expected = [UNSIGNED_BYTE << 8 | len(shape), *shape]
    header = np.frombuffer(content[:header_bytes], ">u4").tolist() if len(content) >= header_bytes else []
    if header[:1] != expected[:1]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes with {len(shape)} axes (wrong magic number)")
    if header != expected:
        raise DataError(f"{path}: holds an array of shape {tuple(header[1:])}, not {shape}")
    size = header_bytes + body_bytes
    if len(content) < size:
        raise DataError(f"{path}: truncated: {len(content)} of {size} bytes")
    if len(content) > size:
        raise DataError(f"{path}: more than the {size} bytes that its header announces")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _decompress(path: Path, limit: int) -> bytes:
    """Return at most one byte more than `limit`, so that a hostile file can't fill the memory."""
    try:
        with gzip.open(path) as stream:
            # The second read reaches the end of the file, which checks the CRC.
            return stream.read(limit) + stream.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read as gzip ({error})") from error
