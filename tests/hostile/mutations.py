"""Damage a file: anywhere in its bytes, or in the structure that its format has."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

# Texts that parsers and terminals may take for something else, or that are hard to hold.
TEXTS = (
    "", "\x00", "\x1b]0;title\x07\x1b[31m", "\u202eabc", "\ud800", "a" * 5000, "../../etc/passwd", "=1+1|cmd", "NaN",
    "<script>", "1e999", "\U0001d7d9", "{{7*7}}", "%s%n", "\n\n", "latency", "cnn-small",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324, [],
    {}, [[]], {"": {}}, [0] * 1000, *TEXTS,
)  # fmt: skip
TOKENS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"\xef\xbb\xbf", b"\n\n",
    b"\r\n", b"\\ud800", b"\\u0000", b"null", b"{}", b'"', b"\xff\xfe", b"\x00" * 64, b"# ", b"= [[", b"a.b.c.d = 1\n",
    b"a" + b".a" * 3000 + b" = 1\n", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"\x80\x02", b"\x1f\x8b\x08", b"'''",
    b"[table]\n", b"[[ladders]]\n", b"inf", b"1979-05-27T07:32:00Z", b"0x" + b"f" * 300,
)  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def damaged_bytes(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return the content after one to four changes: bits, numbers, pieces that are cut, repeated, moved or foreign."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place, end = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
        match rng.randrange(9):
            case 0 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[place % len(data)] = rng.randrange(256)
            case 2:
                order, size = rng.choice("<>"), rng.choice("BHIQ")
                number = rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(size)) - 1)
                data[place : place + struct.calcsize(size)] = struct.pack(order + size, number)
            case 3:
                data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 100)))
            case 4:
                del data[place : place + rng.choice((1, 2, 8, 100, len(data)))]
            case 5:
                data[place:place] = data[end : end + rng.choice((1, 8, 100, 2000))]
            case 6:
                data[place : place + rng.choice((0, 4, 40))] = rng.choice(TOKENS)
            case 7:
                other = rng.choice(others)
                start = rng.randrange(len(other) + 1)
                data[place : place + rng.choice((0, 16))] = other[start : start + rng.choice((8, 64, 1000))]
            case _:
                low, high = sorted((place, end))
                data[low:high] = data[low:high][::-1] if rng.random() < 0.5 else b""
    return bytes(data)


def damaged_json(value: Any, rng: random.Random) -> Any:
    """Change one to three values, keys or lengths in a value that was read from JSON."""
    texts = list(_texts(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = _place(value, rng)
        if holder is None:
            value = rng.choice(VALUES)
            continue
        if rng.random() < 0.5:
            holder[key] = _like(holder[key], texts, rng)
            continue
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.insert(rng.randrange(len(holder) + 1), rng.choice((*VALUES, holder[key])))
            case 2 if isinstance(holder, list):
                holder += [holder[key]] * rng.choice((1, 2, 50))
            case 3 if isinstance(holder, dict):
                holder[rng.choice((*TEXTS, *holder))] = holder.pop(key)
            case 4:
                depth: Any = holder[key]
                for _ in range(rng.choice((3, 40, 300))):
                    depth = [depth] if rng.random() < 0.5 else {"a": depth}
                holder[key] = depth
            case _:
                holder[key] = rng.choice(VALUES)
    return value


def _like(value: Any, texts: list[str], rng: random.Random) -> Any:
    """Return another value of the same type, which a parser does not refuse for its type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((0, 1, -value, value + 1, value - 1, value * 1000, 2**62, -(2**62), 10**9))
    if isinstance(value, float):
        return rng.choice((0.0, -value, value * 1e6, 1e300, -1e300, 1e-300, value + 1))
    return rng.choice((*TEXTS, *texts)) if isinstance(value, str) else value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


def _place(value: Any, rng: random.Random) -> tuple[Any, Any]:
    """Return a list or object anywhere in a value, and one of its indices or keys; (None, None) if there is none."""
    holder, key = None, None
    while isinstance(value, dict | list) and value:
        holder, key = value, rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        value = holder[key]
        if rng.random() < 0.25:
            break
    return holder, key


def damaged_text(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return TOML with lines that are moved, repeated or lost, or with another value or key."""
    lines = content.decode(errors="surrogateescape").split("\n")
    place, end = rng.randrange(len(lines)), rng.randrange(len(lines))
    key, equals, _ = lines[place].partition("=")
    match rng.randrange(6):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[end])
        case 2 if equals:
            lines[place] = f"{key}= {_toml(rng.choice(VALUES))}"
        case 3 if equals:
            lines[place] = f"{key.strip()}.{_toml(rng.choice(TEXTS))} = {_toml(rng.choice(VALUES))}"
        case 4:
            lines.insert(place, f"{_toml(rng.choice(TEXTS))} = {_toml(rng.choice(VALUES))}")
        case _:
            other = rng.choice(others).decode(errors="surrogateescape").split("\n")
            lines[place] = rng.choice(other)
    return "\n".join(lines).encode(errors="surrogatepass")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return "nothing" if value is None else json.dumps(value)


def json_lines(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a journal with lines that are changed, lost, repeated or out of order."""
    lines = content.decode().splitlines()
    for _ in range(rng.choice((1, 2))):
        place = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                lines.insert(rng.randrange(len(lines)), lines[place])
            case 1 if len(lines) > 1:
                del lines[place]
            case 2:
                lines[place : place + 2] = reversed(lines[place : place + 2])
            case _:
                lines[place] = json_text(lines[place].encode(), rng, others).decode(errors="surrogatepass")
    return ("\n".join(lines) + rng.choice(("\n", "\n", "", "\r\n", "\n\n"))).encode(errors="surrogatepass")


def json_text(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    try:
        value = damaged_json(json.loads(content), rng)
    except ValueError:
        return damaged_bytes(content, rng, others)
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode(errors="surrogatepass")


def header(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return safetensors with another header, whose length is stated rightly or not."""
    length = int.from_bytes(content[:8], "little")
    text = json_text(content[8 : 8 + length], rng, others)
    stated = rng.choice((len(text), len(text), len(text), rng.choice(NUMBERS)))
    return struct.pack("<Q", stated) + text + content[8 + length :]


def compressed(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return gzip whose content is damaged."""
    inner = bytearray(gzip.decompress(content))
    if rng.random() < 0.5:
        place = 4 * rng.randrange(4)
        inner[place : place + 4] = struct.pack(">I", rng.choice(NUMBERS) & 0xFFFFFFFF)
    else:
        inner = bytearray(damaged_bytes(bytes(inner), rng, others))
    return gzip.compress(bytes(inner), 1, mtime=0) * rng.choice((1, 1, 1, 2))


def archive(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return a zip archive with members that are damaged, renamed, repeated, inflating or lost."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(output, "w") as target:
        names = source.namelist()
        chosen = rng.choice(names)
        for name in names:
            member, new, method = source.read(name), name, zipfile.ZIP_STORED
            if name == chosen:
                match rng.randrange(7):
                    case 0:
                        continue
                    case 1:
                        new = rng.choice(("../evil", "/evil", "a/constants.pkl", *names))
                    case 2:
                        member, method = bytes(rng.choice((100, 1 << 22))), zipfile.ZIP_DEFLATED
                    case 3 if name.endswith(".json"):
                        member = json_text(member, rng, others)
                    case _:
                        member = damaged_bytes(member, rng, others)
            target.writestr(zipfile.ZipInfo(new), member, method)
    return output.getvalue()


def hdf5(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Return HDF5 with other attributes, types, shapes, chunks and links: soft, external and virtual."""
    output = io.BytesIO(content)
    with h5py.File(output, "a") as file:
        found: list[str] = []
        file.visit(found.append)
        name = rng.choice(found)
        item = file[name]
        match rng.randrange(9):
            case 0:
                del file[name]
            case 1:
                file.move(name, rng.choice((f"{name}x", "optimizer", "model_weights", "vars")))
            case 2:
                del file[name]
                file[name] = h5py.SoftLink(rng.choice(("/", ".", name, "/nowhere", found[0])))
            case 3:
                del file[name]
                file[name] = h5py.ExternalLink(rng.choice(("outside.h5", "/dev/zero", "../../outside/canary")), "/")
            case 4:
                group = rng.choice([file, item])
                key = rng.choice(("layer_names", "weight_names", "model_config", "layer_names0", "backend"))
                group.attrs[key] = rng.choice((
                    b"x", 3, 1.5, [b"conv2d1"] * 500, [b"/", b"..", b"conv2d1/../conv2d2"], np.zeros((2, 2)),
                    b'{"config":' * 300, b"{}", np.array([], "S1"), h5py.Empty("f"),
                ))  # fmt: skip
            case 5:
                del file[name]
                shape = rng.choice(((), (2**20,), (2**40,), (2**62,), (0, 5), (3, 3, 1, 16)))
                dtype = rng.choice(("f2", "f4", "f8", "i8", "S5", h5py.string_dtype(), "V2", "?"))
                file.create_dataset(name, shape=shape, dtype=dtype)
            case 6:
                del file[name]
                layout = h5py.VirtualLayout((128,), "f4")
                layout[:] = h5py.VirtualSource(rng.choice(("outside.h5", ".")), "x", (128,))
                file.create_virtual_dataset(name, layout)
            case 7:
                del file[name]
                file.create_dataset(name, (128,), "f4", external=[(rng.choice(("outside.raw", "/dev/zero")), 0, 512)])
            case _:
                del file[name]
                file[name] = file
    return output.getvalue()
