"""What is computed once and kept in the user's cache: each entry is a folder, whole or not there at all."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import backends
import models
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPLICATION = "cnn-stack-bench"
FACTS = "facts.json"
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef


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


def entry(kind: str, digest: str, make: Callable[[Path], dict[str, Any]]) -> tuple[Path, dict[str, Any], bool]:
    """Return an entry's folder, what is known about it, and whether it was there already.

    `make` fills an empty folder and returns what to know about it. An entry whose files are not those that were made,
    bit for bit, is made anew. Raises OSError when the disk refuses, and what `make` raises.
    """
    from platformdirs import user_cache_path

    folder = user_cache_path(APPLICATION) / kind / digest
    if (known := _sound(folder)) is not None:
        return folder, known, True
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        facts = make(partial)
        content = {"facts": facts, "files": _digests(partial)}
        (partial / FACTS).write_text(json.dumps(content | {"digest": _digest(content)}))
        if (known := _sound(folder)) is not None:  # another run has made the same in the meantime
            return folder, known, True
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder, facts, False


def require_writable() -> None:
    """Raise UserError when the user's cache can't be written."""
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


def _sound(folder: Path) -> dict[str, Any] | None:
    """Return what is known about an entry, or None when it is not there or not as it was made."""
    try:
        content = json.loads((folder / FACTS).read_text())
        told = {name: content[name] for name in ("facts", "files")}
        sound = content["digest"] == _digest(told) and told["files"] == _digests(folder)
        return dict(told["facts"]) if sound else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
