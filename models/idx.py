"""Read the IDX format of the MNIST family (big-endian magic, sizes, then unsigned bytes), gzip-compressed."""

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
    """A data set that is missing, damaged or not what it claims to be."""


def read_idx(path: Path, shape: Shape) -> NDArray[np.uint8]:
    """Return the array in a gzip-compressed IDX file.

    Raises DataError when the file can't be read, is truncated or corrupted, or holds anything but unsigned bytes of
    exactly `shape`.
    """
    header_bytes = 4 + 4 * len(shape)
    body_bytes = int(np.prod(shape))
    content = _decompress(path, header_bytes + body_bytes + 1)
    wanted = [UNSIGNED_BYTE << 8 | len(shape), *shape]
    found = np.frombuffer(content[:header_bytes], ">u4").tolist() if len(content) >= header_bytes else []
    if found[:1] != wanted[:1]:
        raise DataError(f"{path}: not an IDX file of unsigned bytes with {len(shape)} axes (wrong magic number)")
    if found != wanted:
        raise DataError(f"{path}: holds an array of shape {tuple(found[1:])}, not {shape}")
    if len(content) != header_bytes + body_bytes:
        raise DataError(f"{path}: {_length(content, header_bytes + body_bytes)}")
    return np.frombuffer(content, np.uint8, offset=header_bytes).reshape(shape)


def _decompress(path: Path, limit: int) -> bytes:
    """Return at most `limit` bytes and one, so that a hostile file can't fill the memory."""
    try:
        with gzip.open(path) as stream:
            return stream.read(limit) + stream.read(1)  # the second read meets the end and checks the CRC
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: can't be read as gzip ({error})") from error


def _length(content: bytes, wanted: int) -> str:
    if len(content) < wanted:
        return f"truncated: {len(content)} of {wanted} bytes"
    return f"more than the {wanted} bytes that its header announces"
