"""The folders below `results`: one for each run, training or evaluation, and the link to the latest run."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.journal import JOURNAL
from bench.run_info import RUN
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LATEST = "latest"


def require_name(name: str) -> None:
    """Raise UserError unless the name can be that of a folder below `results`."""
    if not NAME.fullmatch(name) or name == LATEST:
        raise UserError(f"--name {name}: allowed: letters, digits, '.', '_' and '-', at most 100, not '{LATEST}'")


def default_run_name(suite: str) -> str:
    return f"{suite}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


@contextmanager
def run_folder(results: Path, name: str) -> Iterator[Path]:
    """Create the folder of a run; remove it if an error leaves the block before anything is measured.

    Raises UserError if there is one of that name, or if it can't be created.
    """
    require_name(name)
    folder, link = results / name, results / LATEST
    if link.exists() and not link.is_symlink():
        raise UserError(f"{link}: is not a link to a run; move it away, or choose another --results")
    try:
        results.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError as error:
        raise UserError(f"{error.filename}: exists already; choose another --name or --results") from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        yield folder
    except BaseException:
        journal = folder / JOURNAL
        if not journal.exists() or not journal.stat().st_size:
            shutil.rmtree(folder)
        raise


def link_latest(folder: Path) -> None:
    """Point results/latest to a run, atomically."""
    link = folder.parent / f".{LATEST}.{folder.name}"
    link.symlink_to(folder.name)
    link.replace(folder.parent / LATEST)


def shared_folder(results: Path, name: str, *foreign: str) -> Path:
    """Return the folder of a training or evaluation, which earlier commands may have created.

    Raises UserError if it holds a run or one of the `foreign` files, or can't be created.
    """
    require_name(name)
    folder = results / name
    for file in (RUN, *foreign):
        if (folder / file).exists():
            raise UserError(f"{folder}: holds something else ({file}); choose another --name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    return folder


@contextmanager
def refusing_damage(*folders: Path) -> Iterator[None]:
    """Raise UserError for what goes wrong with the figures of a run that others measured, or changed."""
    from jinja2 import TemplateError

    try:
        yield
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ArithmeticError, ValueError, TemplateError) as error:
        names, verb = ", ".join(map(str, folders)), "this run is" if len(folders) == 1 else "one of these runs is"
        raise UserError(f"{names}: {verb} damaged ({type(error).__name__}: {error})") from error


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: can't be made ({error.strerror}); name a writable folder with --results")
