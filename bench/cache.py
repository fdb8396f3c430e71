"""The user's cache: each entry is a folder that is computed once, and complete or absent."""

from __future__ import annotations

import ast
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import backends
import models
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPLICATION = "cnn-stack-bench"
FACTS = "facts.json"
PARTIAL = ".partial-"
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


class Entry(NamedTuple):
    """An entry's folder, the facts stored with it, and whether it existed before."""

    folder: Path
    facts: dict[str, Any]
    cached: bool


def key(**parts: Any) -> str:
    """Return a digest of what an entry depends on, the code that makes it included."""
    return _digest(parts | {"code": code_digest(*models.__path__, *backends.__path__)})


@functools.cache
def code_digest(*folders: str) -> str:
    """Return a digest of all Python code in some folders, without comments and docstrings.

    An entry depends on what the code does. Better documentation must not make users compute the oracle again.
    """
    sha = hashlib.sha256()
    for folder in map(Path, folders):
        for path in _modules(folder):
            tree = ast.parse(path.read_bytes(), path)
            for node in ast.walk(tree):
                if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
                    del node.body[0]
            sha.update(f"{path.relative_to(folder)} {ast.dump(tree)}\n".encode())
    return sha.hexdigest()


def _modules(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.suffix == ".py":
            yield path
        elif (path / "__init__.py").is_file():
            yield from _modules(path)


def entry(kind: str, digest: str, make: Callable[[Path], dict[str, Any]]) -> Entry:
    """Return an entry, made by `make` if it does not exist.

    `make` fills an empty folder and returns the facts to store with it. An entry whose files differ from those that
    were made is made again. Raises OSError when the disk refuses, and what `make` raises.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path(APPLICATION) / kind / digest
    if (known := _intact(folder)) is not None:
        return Entry(folder, known, cached=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = _locked_folder(folder.parent)
    try:
        facts = make(partial)
        content = {"facts": facts, "files": _digests(partial)}
        (partial / FACTS).write_text(json.dumps(content | {"digest": _digest(content)}))
        # Another run may have made the same entry meanwhile.
        if (known := _intact(folder)) is not None:
            return Entry(folder, known, cached=True)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        if error.filename is not None:
            raise
        # NumPy gives no number either when it could not write all of an array.
        number = error.errno or errno.ENOSPC
        raise OSError(number, os.strerror(number), str(folder.parent)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(descriptor)
    return Entry(folder, facts, cached=False)


def _locked_folder(parent: Path) -> tuple[int, Path]:
    """Make an empty folder and lock it; first remove those that nobody locks, because their process was killed.

    Some network file systems lock no folders. There, none is removed.
    """
    turn = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(turn, fcntl.LOCK_EX)
            for other in parent.glob(f"{PARTIAL}*"):
                _remove_unlocked(other)
        partial = Path(tempfile.mkdtemp(dir=parent, prefix=PARTIAL))
        descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(turn)
    return descriptor, partial


def _remove_unlocked(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def require_writable() -> None:
    """Raise UserError when the cache can't be written."""
    from platformdirs import user_cache_path

    folder = user_cache_path(APPLICATION)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"{folder}: the cache can't be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != FACTS)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _intact(folder: Path) -> dict[str, Any] | None:
    """Return the facts of an entry; None when it is missing, incomplete or modified."""
    try:
        content = json.loads((folder / FACTS).read_text())
        stored = {name: content[name] for name in ("facts", "files")}
        intact = content["digest"] == _digest(stored) and stored["files"] == _digests(folder)
        return dict(stored["facts"]) if intact else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
