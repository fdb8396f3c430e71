"""Tell what kind of file a model is in by its content, never by its name; refuse other kinds with the remedy."""

from __future__ import annotations

import json
import struct
import zipfile
from typing import TYPE_CHECKING

from models.files import read_at_most
from models.weights import WeightsError

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import Network

SAFETENSORS, HDF5, KERAS_ARCHIVE, PYTORCH = "safetensors", "HDF5", "a Keras archive", "PyTorch"
KINDS = "a safetensors file, a PyTorch state dict or checkpoint, or Keras's .h5, .weights.h5 or .keras"

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# A file may have a user block in front of the signature.
HDF5_OFFSETS = (0, 512, 1024, 2048)
HEAD_BYTES = max(HDF5_OFFSETS) + len(HDF5_SIGNATURE)
KERAS_WEIGHTS, KERAS_CONFIG = "model.weights.h5", "config.json"
# Room for optimisers, averages of weights and earlier epochs beside the weights, in fp64.
BYTES_PER_PARAMETER, SMALLEST_LIMIT_BYTES = 128, 256 << 20

# No index of a model in several files, and no directory of an archive with weights, is larger.
MOST_INDEX_BYTES, MOST_DIRECTORY_BYTES = 1 << 22, 1 << 20

SAVE_STATE_DICT = "load it where it was made, and save with torch.save(model.state_dict(), 'weights.pth')"
EXPORT_WEIGHTS = "load it where it was made, and save its weights with torch.save, safetensors or Keras's save_weights"
# Beginnings of files that are no weights, what they are, and what to do.
OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"<!DOCTYPE", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
    (b"<?xml", "XML, such as the network of an OpenVINO model", EXPORT_WEIGHTS),
    (b"\x1f\x8b", "compressed with gzip", "unpack it: gunzip"),
    (b"BZh", "compressed with bzip2", "unpack it: bunzip2"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it: unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it: unzstd"),
    (b"GGUF", "a GGUF file", EXPORT_WEIGHTS),
    (b"\x93NUMPY", "a single NumPy array", EXPORT_WEIGHTS),
)


def largest_file_bytes(network: Network) -> int:
    """Return the size that no file with weights of the network, and what belongs to them, exceeds."""
    return max(SMALLEST_LIMIT_BYTES, BYTES_PER_PARAMETER * network.parameters)


def kind_of(path: Path, network: Network) -> str:
    """Return SAFETENSORS, HDF5, KERAS_ARCHIVE or PYTORCH; raise WeightsError with the remedy for all else."""
    if path.is_dir():
        raise WeightsError(f"{path}: is a folder; allowed: {KINDS}; of a SavedModel or an ONNX model, {EXPORT_WEIGHTS}")
    if not path.is_file():
        raise WeightsError(f"{path}: not there")
    try:
        size, limit = path.stat().st_size, largest_file_bytes(network)
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: can't be read ({error.strerror})") from error
    for beginning, what, remedy in OTHERS:
        if head.lstrip().startswith(beginning):
            raise WeightsError(f"{path}: is {what}; {remedy}")
    if size > limit:
        raise WeightsError(f"{path}: has {size:,} bytes; allowed for {network.name}: {limit:,}; save the weights alone")
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(path, limit)
    if kind := _kind_by_head(head, size):
        return kind
    raise WeightsError(f"{path}: {_described(path, head)}")


def _kind_by_head(head: bytes, size: int) -> str | None:
    if any(head[offset:].startswith(HDF5_SIGNATURE) for offset in HDF5_OFFSETS):
        return HDF5
    # First, as the length that it begins with can look like the beginning of a pickle.
    if _is_safetensors(head, size):
        return SAFETENSORS
    # Pickles of protocol 2 and later: PyTorch's format before version 1.6, or a pickle without tensors.
    return PYTORCH if head.startswith(b"\x80") else None


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether a file begins with the length of a JSON object that fits into it."""
    length = struct.unpack("<Q", head[:8])[0] if len(head) > 8 else size  # noqa: PLR2004 - the length has 8 bytes
    return bool(length <= size - 8) and head[8:9] == b"{"


def _described(path: Path, head: bytes) -> str:
    """Return what a file of no known kind is, with the remedy."""
    if not head:
        return f"is empty; allowed: {KINDS}"
    if not head.lstrip().startswith((b"{", b"[")):
        return f"is of no known kind, or damaged; allowed: {KINDS}"
    try:
        content = json.loads(read_at_most(path, MOST_INDEX_BYTES))
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "weight_map" in content:
        return (
            "is the index of a model in several files; load all of them where it was made, and save one file: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        )
    return f"is JSON, without weights; {EXPORT_WEIGHTS}"


def _kind_of_archive(path: Path, limit: int) -> str:
    """Return the kind of a zip archive whose members, by its directory, fit into the limit when they are unpacked."""
    try:
        with path.open("rb") as stream:
            # The function by which ZipFile finds the directory; it is None where ZipFile finds none.
            found = zipfile._EndRecData(stream)  # type: ignore[attr-defined] # noqa: SLF001
        if found and found[zipfile._ECD_SIZE] > MOST_DIRECTORY_BYTES:  # type: ignore[attr-defined] # noqa: SLF001
            raise WeightsError(f"{path}: has far too many members for a file of weights; save the weights alone")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: is a damaged archive ({error}); download or save it again") from error
    if (unpacked := sum(member.file_size for member in members)) > limit:
        raise WeightsError(
            f"{path}: its members have {unpacked:,} bytes when they are unpacked; allowed: {limit:,}; save the weights "
            "alone"
        )
    names = [member.filename for member in members]
    if KERAS_CONFIG in names:
        if KERAS_WEIGHTS in names:
            return KERAS_ARCHIVE
        raise WeightsError(f"{path}: lacks {KERAS_WEIGHTS}; save the model again with Keras's model.save")
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise WeightsError(f"{path}: is a TorchScript module, which holds code; {SAVE_STATE_DICT}")
    if "data.pkl" in inner:
        return PYTORCH
    if inner & {"models/model.json", "serialized_exported_program.json"} or "serialized_exported_program.json" in names:
        raise WeightsError(f"{path}: is a program exported by PyTorch; {SAVE_STATE_DICT}")
    raise WeightsError(f"{path}: is a zip archive without weights that are known here; allowed: {KINDS}")
