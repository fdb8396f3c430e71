"""The folders below `results`: one for each run, training or evaluation, and the link to the latest run."""

from __future__ import annotations

import re
import shutil
import traceback
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.console import WARNING, say
from bench.journal import JOURNAL, LOGS, RUN, has_records, read_journal, refuse_links
from bench.records import INTERRUPTED, End, in_force
from models.errors import UserError, remedy_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from bench.records import Record

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LATEST = "latest"
# Why a report is not written while a run is under way.
MEASURING = "a run is writing to it; wait for its end"
ERROR_LOG = "bench.log"


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
        folder.mkdir(exist_ok=_is_abandoned(folder))
        # It has no records.
        (folder / JOURNAL).unlink(missing_ok=True)
    except FileExistsError as error:
        raise UserError(f"{error.filename}: exists already; choose another --name or --results") from error
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        yield folder
    except BaseException:
        if not has_records(folder):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _is_abandoned(folder: Path) -> bool:
    """Return whether a folder is that of a run that was killed before it had measured anything."""
    if folder.is_symlink() or not folder.is_dir() or has_records(folder):
        return False
    return {path.name for path in folder.iterdir()} <= {RUN, f".{RUN.replace('.', '.partial.')}", JOURNAL, LOGS}


def interrupted_run(results: Path, name: str) -> Path:
    """Return the folder of a run to go on with; raises UserError if there is none."""
    require_name(name, "--resume")
    folder = results / name
    refuse_links(folder)
    if not (folder / RUN).exists() or not (folder / JOURNAL).exists():
        raise UserError(f"{folder}: no run to go on with; --resume takes the name of a folder in --results")
    return folder


def earlier_records(folder: Path) -> list[Record]:
    """Return the records in force of a run to go on with; raises UserError if it has ended by itself."""
    records = read_journal(folder)
    if records and isinstance(last := records[-1], End) and last.status != INTERRUPTED:
        raise UserError(f"{folder}: is {last.status}; there is nothing to go on with")
    return in_force(records)


@contextmanager
def kept_records(folder: Path) -> Iterator[None]:
    """Let an error that leaves the block say how the report of what was measured can be written later.

    The traceback of an unknown error is stored.
    """
    try:
        yield
    except Exception as error:
        if not has_records(folder):
            raise
        what = str(error)
        if not isinstance(error, UserError):
            log = folder / LOGS / ERROR_LOG
            with suppress(OSError):
                log.write_text(traceback.format_exc(), encoding="utf-8")
            what = f"{type(error).__name__}: {error} (see {log})"
        kept = f"all that was measured is kept: `python -m bench report {folder}` writes its report"
        raise UserError(f"{what}; {kept}") from error


def link_latest(folder: Path, console: Console) -> None:
    """Point results/latest to a run, atomically; say so where the file system has no links."""
    link, latest = folder.parent / f".{LATEST}.{folder.name}", folder.parent / LATEST
    try:
        # A process that was killed may have left it.
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        link.replace(latest)
    except OSError as error:
        with suppress(OSError):
            link.unlink(missing_ok=True)
        say(console, f"{latest} does not point to this run ({error.strerror}): name {folder} instead", WARNING)


def shared_folder(results: Path, name: str, *foreign: str) -> Path:
    """Return the folder of a training or evaluation, which earlier commands may have created.

    Raises UserError if it holds a run or one of the `foreign` files, or can't be created.
    """
    require_name(name)
    folder = results / name
    for file in (RUN, *foreign):
        if (folder / file).exists():
            raise UserError(f"{folder}: holds something else ({file}); choose another --name")
    refuse_links(folder)
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
    what = f"{folder}: can't be made ({error.strerror})"
    return UserError(f"{what}; {remedy_of(error)}, or name a writable folder with --results")
