"""Read the kernel's files. One that is absent, busy, forbidden or garbled means that the answer is unknown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Longer words, numbers and lists of cores than the kernel writes are garbage.
MOST_CHARACTERS, MOST_DIGITS, MOST_CORES = 200, 20, 1 << 16


def read_text(path: Path) -> str | None:
    """Return the content of a file, or None if it can't be read. Every other function here reads with this one."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def read_lines(path: Path) -> list[str]:
    return (read_text(path) or "").splitlines()


def read_word(path: Path) -> str | None:
    """Return the only line of a file, or None if it has none that can be shown."""
    line = (read_text(path) or "").strip()
    return line if line.isprintable() and 0 < len(line) <= MOST_CHARACTERS else None


def read_number(path: Path) -> int | None:
    return parse_number(read_text(path) or "")


def parse_number(text: str) -> int | None:
    """Return the whole number in a text, which may be negative, or None if it is anything else."""
    digits = text.strip().removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS else None


def read_fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file with a name and a number on each line; names may end in a colon."""
    words = [line.split() for line in read_lines(path)]
    numbers = {line[0].removesuffix(":"): parse_number(line[1]) for line in words if len(line) > 1}
    return {name: number for name, number in numbers.items() if number is not None}


def read_cores(path: Path) -> list[int]:
    """Return the cores in a list such as 0-3,8, or none if it is no such list."""
    cores: list[int] = []
    for part in (read_text(path) or "").strip().split(","):
        first, dash, last = part.partition("-")
        bounds = parse_number(first), parse_number(last if dash else first)
        if bounds[0] is None or bounds[1] is None or not 0 <= bounds[0] <= bounds[1] < MOST_CORES:
            return []
        cores += range(bounds[0], bounds[1] + 1)
    return cores


def entries(folder: Path) -> list[Path]:
    """Return what is in a folder, or nothing if it can't be read."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
