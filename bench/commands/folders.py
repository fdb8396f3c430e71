"""The folders below `results`: one for each run, training or evaluation, and the link to the latest run."""

from __future__ import annotations

import re
import shutil
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.journal import JOURNAL, RUN, read_journal
from bench.records import INTERRUPTED, End
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LATEST = "latest"


def require_name(name: str, option: str = "--name") -> None:
    """Raise UserError unless the name can be that of a folder below `results`."""
    if not NAME.fullmatch(name) or name == LATEST:
        raise UserError(f"{option} {name}: allowed: letters, digits, '.', '_' and '-', at most 100, not '{LATEST}'")


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


def unfinished_run(results: Path, name: str) -> Path:
    """Return the folder of a run to go on with; raises UserError if there is none, or if it has ended by itself."""
    require_name(name, "--resume")
    folder = results / name
    if not (folder / RUN).exists() or not (folder / JOURNAL).exists():
        raise UserError(f"{folder}: no run to go on with; --resume takes the name of a folder in --results")
    last = next(reversed(read_journal(folder)), None)
    if isinstance(last, End) and last.status != INTERRUPTED:
        raise UserError(f"{folder}: is {last.status}; there is nothing to go on with")
    return folder


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


def _not_writable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder}: can't be made ({error.strerror}); name a writable folder with --results")
