"""Make a bundle: resolve, download, add the rest, and let the folder appear once it is complete."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.bundle.project import TOOLS, copy_project, tool_requirements
from bench.bundle.wheels import (
    ARCHITECTURE,
    GLIBC,
    PYTHON,
    Wheel,
    batches,
    download,
    last_messages,
    missing_wheels,
    requirements,
    sha256,
    wheels_of_environment,
    wheels_of_tools,
)
from models.data import SHA256
from models.errors import UserError, remedy_of
from models.timeouts import timeout_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.bundle.project import Requested

SUMS, INSTALLER, NODE_SETTINGS = "SHA256SUMS", "install.sh", "settings"
WHEELS, REQUIREMENTS, DATA = "wheels", "requirements", "data/fashion-mnist"
UV = f"{TOOLS}/uv"
# A list of Pythons in place of the one in uv: a file, or an address.
DOWNLOADS_VARIABLE, DOWNLOADS, LIST_TIMEOUT_S = "UV_PYTHON_DOWNLOADS_JSON_URL", "downloads.json", 60
# Not of the bundle: what pip and uv write meanwhile.
SCRATCH = ".scratch"
# The project, the data, the managed Python and what file systems add.
OTHER_BYTES = 200_000_000
# What tox, logs and bytecode add to the unpacked wheels of an installation.
INSTALLED_MARGIN = 1.05


@dataclass(frozen=True)
class Planned:
    """What a bundle will hold, and what is not there yet."""

    wheels: Mapping[str, Sequence[Wheel]]
    missing: Sequence[Wheel]

    @property
    def missing_bytes(self) -> int:
        return sum(wheel.size_bytes or 0 for wheel in self.missing)


def refuse_existing(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise UserError(f"{target}: exists already; name another folder, or remove it")


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """Yield the folder that becomes `target`, for one process at a time; what it holds is kept for the next call."""
    partial = target.with_name(f"{target.name}.partial")
    for folder in (partial, partial / WHEELS, partial / SCRATCH):
        folder.mkdir(parents=folder == partial, exist_ok=True)
    descriptor = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{partial}: another process makes this bundle; wait for it, or name another folder"
            ) from error
        yield partial
        shutil.rmtree(partial / SCRATCH)
        partial.rename(target)
    finally:
        os.close(descriptor)


def plan_bundle(
    uv: Path, checkout: Path, environments: Sequence[Requested], torch: str | None, partial: Path
) -> Planned:
    """Resolve every environment and the tools, and check that the disk can hold what is missing."""
    scratch = partial / SCRATCH
    wheels = {
        each.name: wheels_of_environment(uv, checkout, each, torch, scratch / f"pylock.{each.name}.toml")
        for each in environments
    }
    wheels[TOOLS] = wheels_of_tools(uv, tool_requirements(checkout), scratch / f"pylock.{TOOLS}.toml")
    every = [wheel for listed in wheels.values() for wheel in listed]
    planned = Planned(wheels, missing_wheels(every, partial / WHEELS))
    # pip holds the files of a call twice for a moment.
    largest = max((sum(wheel.size_bytes or 0 for wheel in batch) for batch in batches(planned.missing)), default=0)
    needed, free = planned.missing_bytes + largest + OTHER_BYTES, shutil.disk_usage(partial).free
    if free < needed:
        raise UserError(
            f"{partial.parent}: {free / 1e9:.1f} GB free, and the bundle needs {needed / 1e9:.1f} GB more; "
            f"{remedy_of(OSError(errno.ENOSPC, ''))}, choose fewer --environments, or name another folder"
        )
    return planned


def download_wheels(uv: Path, planned: Planned, partial: Path, step: Callable[[float, str], None]) -> None:
    """Download what is missing; `step` is told the bytes that arrived, a hundredth of all or more at a time."""
    for batch in batches(planned.missing):
        total = sum(wheel.size_bytes or 0 for wheel in batch)
        what = batch[-1].file if len(batch) == 1 else f"{len(batch)} wheels"
        told = finished = latest = 0
        for so_far in download(uv, batch, partial / WHEELS, partial / SCRATCH):
            if so_far < latest:
                # The next file begins.
                finished += latest
            latest = so_far
            arrived = min(finished + latest, total)
            if arrived - told >= planned.missing_bytes / 100:
                step(arrived - told, what)
                told = arrived
        if told < total or not total:
            step(total - told, what)


def add_python(partial: Path) -> str:
    """Let the bundle's own uv download a Python, and keep its archive; return its name.

    Raises UserError where uv cannot download one.
    """
    scratch, archives = partial / SCRATCH / "python", partial / "python"
    command = [str(partial / UV), "python", "install", "--no-bin", f"--install-dir={scratch}", PYTHON]
    variables = {"UV_PYTHON_CACHE_DIR": str(archives), "UV_HTTP_RETRIES": "1"}
    if own := os.environ.get(DOWNLOADS_VARIABLE):
        # The machine's uv must know the archive by the same list.
        variables[DOWNLOADS_VARIABLE] = str(_keep_list(own, archives))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables, check=False)
    names = [path.name for path in scratch.glob(f"cpython-{PYTHON}.*") if not path.is_symlink()]
    if done.returncode != 0 or len(names) != 1:
        shutil.rmtree(archives, ignore_errors=True)
        raise UserError("uv: " + last_messages((done.stderr.strip() or "it says nothing").splitlines()[-1]))
    return names[0]


def _keep_list(own: str, archives: Path) -> Path:
    """Copy or download the user's list of Pythons; raises UserError where it can't be read."""
    # It imports requests, which takes a while.
    import pooch

    target = archives / DOWNLOADS
    try:
        archives.mkdir(exist_ok=True)
        if own.startswith(("http://", "https://")):
            pooch.HTTPDownloader(timeout=LIST_TIMEOUT_S * timeout_factor())(own, str(target), None)
        else:
            shutil.copyfile(own.removeprefix("file://"), target)
    except OSError as error:
        shutil.rmtree(archives, ignore_errors=True)
        raise UserError(f"{DOWNLOADS_VARIABLE}: {last_messages(str(error))}") from error
    return target


def add_tools(planned: Planned, partial: Path) -> None:
    """Unpack uv from its wheel: it needs nothing of the machine that it installs on."""
    (wheel,) = (wheel for wheel in planned.wheels[TOOLS] if wheel.name == "uv")
    target = partial / UV
    target.parent.mkdir(exist_ok=True)
    with (
        zipfile.ZipFile(partial / WHEELS / wheel.file) as archive,
        archive.open(f"uv-{wheel.version}.data/scripts/uv") as packed,
        target.open("wb") as unpacked,
    ):
        shutil.copyfileobj(packed, unpacked)
    target.chmod(0o755)


def require_official(folder: Path) -> None:
    """Raise UserError if one of the official files is missing, or differs from what its authors published."""
    for name, digest in SHA256.items():
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name}: can't be read ({error.strerror}); --data needs four files") from error
        if found != digest:
            raise UserError(f"{folder / name}: not the official file (its SHA-256 differs); download it again")


def add_data(folder: Path, partial: Path) -> None:
    """Copy the official files; raises UserError if one is not what its authors published."""
    require_official(folder)
    target = partial / DATA
    target.mkdir(parents=True, exist_ok=True)
    for name in SHA256:
        shutil.copyfile(folder / name, target / name)


def add_project(checkout: Path, partial: Path) -> None:
    """Copy the project anew: it may have changed since an interrupted call."""
    shutil.rmtree(partial / "project", ignore_errors=True)
    (partial / "project").mkdir()
    copy_project(checkout, partial / "project")


def add_installer(planned: Planned, python: str, partial: Path) -> None:
    """Write the requirements, the installer and its settings."""
    folder = partial / REQUIREMENTS
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, wheels in planned.wheels.items():
        (folder / f"{name}.txt").write_text(requirements(wheels), encoding="utf-8")
    environments = ",".join(name for name in planned.wheels if name != TOOLS)
    settings = {
        "architecture": ARCHITECTURE,
        "glibc": GLIBC,
        "python": PYTHON,
        "managed_python": python,
        "environments": environments,
        "installed_kb": str(installed_bytes(partial) // 1000),
    }
    shutil.copyfile(Path(__file__).with_name(INSTALLER), partial / INSTALLER)
    (partial / INSTALLER).chmod(0o755)
    (partial / "data").mkdir(exist_ok=True)
    (partial / NODE_SETTINGS).touch()
    settings["files"] = str(len(list(_files(partial))))
    lines = "".join(f"{name}='{value}'\n" for name, value in settings.items())
    (partial / NODE_SETTINGS).write_text(lines, encoding="utf-8")


def installed_bytes(bundle: Path) -> int:
    """Return what an installation takes: environments share the unpacked files of a wheel."""
    unpacked = 0
    for path in (bundle / WHEELS).iterdir():
        with zipfile.ZipFile(path) as archive:
            unpacked += sum(member.file_size for member in archive.infolist())
    return int(unpacked * INSTALLED_MARGIN) + OTHER_BYTES


def write_sums(planned: Planned, partial: Path) -> str:
    """Write the SHA-256 of every file; return that of the list itself."""
    known = {f"{WHEELS}/{wheel.file}": wheel.sha256 for listed in planned.wheels.values() for wheel in listed}
    lines = (f"{known.get(name) or sha256(partial / name)}  {name}\n" for name in _files(partial))
    (partial / SUMS).write_text("".join(lines), encoding="utf-8")
    return sha256(partial / SUMS)


def _files(partial: Path) -> Iterator[str]:
    """Yield the files whose sums a bundle lists."""
    for path in sorted(partial.rglob("*")):
        name = path.relative_to(partial).as_posix()
        if path.is_file() and name != SUMS and not name.startswith(f"{SCRATCH}/"):
            yield name
