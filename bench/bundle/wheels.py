"""Which wheels an environment needs, by uv, and their download, by pip, which checks each one's SHA-256."""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from bench.bundle.project import PYPROJECT, TOOLS
from models.errors import UserError, remedy_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from bench.bundle.project import Requested

ARCHITECTURE, GLIBC = "x86_64", "2.28"
PYTHON = "3.11"
PLATFORM = f"{ARCHITECTURE}-manylinux_{GLIBC.replace('.', '_')}"
WHEEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl")
SHA256 = re.compile(r"[0-9a-f]{64}")
# Since this version pip prints its progress in a form for programs.
RAW_PROGRESS = Version("24.1")
PROGRESS = re.compile(r"Progress (\d+) of \d+")
# pip keeps the files of a call only once it has all of them.
BATCH_BYTES = 256_000_000
MOST_LINES, LONGEST_MESSAGE = 20, 400
FULL = "No space left on device"
# How pip begins to say that a file has another digest, and the name of its package after that.
DIFFERS = re.compile(r"DO NOT MATCH THE HASHES.*?^ +(\S+) @ ", re.DOTALL | re.MULTILINE)
LINKS_VARIABLE = "UV_FIND_LINKS"


@dataclass(frozen=True)
class Wheel:
    """A file to download; the size is None where the index does not tell."""

    name: str
    version: str
    url: str
    sha256: str
    size_bytes: int | None

    @property
    def file(self) -> str:
        return Path(unquote(urlsplit(self.url).path)).name


def find_uv(environments: Path) -> Path:
    """Return uv: that of this interpreter's environment, else the one that tox has, else that of the shell."""
    for folder in (str(Path(sys.executable).parent), str(environments / ".tox" / "bin"), None):
        if found := which("uv", path=folder):
            return Path(found)
    raise UserError("uv is missing, which finds the wheels; install it: python -m pip install uv")


def wheels_of_environment(uv: Path, checkout: Path, requested: Requested, torch: str | None, lock: Path) -> list[Wheel]:
    """Let uv resolve an environment for the oldest platform that a node may be."""
    extras = [part for extra in requested.extras for part in ("--extra", extra)]
    groups = [part for group in requested.groups for part in ("--group", f"{checkout / PYPROJECT}:{group}")]
    sources = [str(checkout / PYPROJECT), *extras, *groups]
    what = f"environment {requested.name}"
    return _resolve(uv, sources, what, dict(requested.variables), torch, lock)


def wheels_of_tools(uv: Path, requirements: Sequence[str], lock: Path) -> list[Wheel]:
    lines = lock.with_suffix(".in")
    lines.write_text("\n".join(requirements), encoding="utf-8")
    return _resolve(uv, [str(lines)], TOOLS, {}, None, lock)


def _resolve(
    uv: Path, sources: Sequence[str], what: str, variables: Mapping[str, str], torch: str | None, lock: Path
) -> list[Wheel]:
    options = [
        "--quiet", "--format=pylock.toml", "--only-binary=:all:", f"--python-version={PYTHON}",
        f"--python-platform={PLATFORM}", f"--output-file={lock}", "--no-header", "--upgrade",
    ]  # fmt: skip
    if torch:
        # As an option it would replace the user's own links.
        links = filter(None, (os.environ.get(LINKS_VARIABLE), _links(torch)))
        variables = {**variables, LINKS_VARIABLE: ",".join(links)}
    command = [str(uv), "pip", "compile", *options, *sources]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **variables}, check=False)
    if done.returncode != 0:
        raise UserError(
            f"{what}: uv finds no set of wheels: {last_messages(done.stderr)}; check the index and its address"
        )
    locked = lock.read_text(encoding="utf-8")
    return [_best(package, what, lock.parent) for package in tomllib.loads(locked)["packages"]]


def _links(torch: str) -> str:
    """Return the page or folder of torch in an index, which wins over the default index by its local version."""
    if urlsplit(torch).scheme in ("http", "https"):
        return f"{torch.rstrip('/')}/torch/"
    if not (folder := Path(torch)).is_dir():
        raise UserError(f"--torch-index {torch}: not a folder; allowed: an index (https://...), or a folder of wheels")
    return str(folder.absolute())


def _best(package: Mapping[str, Any], what: str, folder: Path) -> Wheel:
    """Return the wheel of a locked package that installers prefer."""
    name, version = package["name"], package.get("version", "")
    ranks = {tag: rank for rank, tag in enumerate(sys_tags())}
    ranked = []
    for entry in package.get("wheels", ()):
        url = entry.get("url") or (folder / entry["path"]).absolute().as_uri()
        wheel = Wheel(name, version, url, entry["hashes"].get("sha256", ""), entry.get("size"))
        if not WHEEL_NAME.fullmatch(wheel.file) or not SHA256.fullmatch(wheel.sha256):
            raise UserError(
                f"{what}: the index lists {wheel.file!r} without a proper name or SHA-256; use another index"
            )
        fitting = [ranks[tag] for tag in parse_wheel_filename(wheel.file)[3] if tag in ranks]
        if fitting:
            ranked.append((min(fitting), wheel))
    if not ranked:
        raise UserError(
            f"{what}: no wheel of {name} {version} fits this machine; make the bundle on Linux {ARCHITECTURE} with "
            f"Python {PYTHON} and glibc {GLIBC} or newer"
        )
    return min(ranked, key=lambda pair: pair[0])[1]


def missing_wheels(wheels: Iterable[Wheel], folder: Path) -> list[Wheel]:
    """Return the wheels that are not in the folder yet, and remove what is damaged or not wanted there."""
    wanted = {wheel.file: wheel for wheel in wheels}
    for path in folder.iterdir():
        if path.name not in wanted or sha256(path) != wanted[path.name].sha256:
            path.unlink()
    return [wheel for wheel in wanted.values() if not (folder / wheel.file).exists()]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def batches(wheels: Sequence[Wheel]) -> Iterator[list[Wheel]]:
    """Divide wheels into calls of pip: one takes one version of a package, and loses what it had if it is cut short."""
    batch, total = list[Wheel](), 0
    for wheel in wheels:
        size = wheel.size_bytes or 0
        if batch and (total + size > BATCH_BYTES or wheel.name in {each.name for each in batch}):
            yield batch
            batch, total = [], 0
        batch.append(wheel)
        total += size
    if batch:
        yield batch


def download(uv: Path, batch: Sequence[Wheel], folder: Path, scratch: Path) -> Iterator[int]:
    """Download wheels; yield the bytes of the present file so far. A wheel with another SHA-256 is not kept."""
    listing = scratch / "wheels.txt"
    listing.write_text("".join(f"{each.name} @ {each.url} --hash=sha256:{each.sha256}\n" for each in batch))
    command = [
        *_pip(uv), "download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-cache-dir",
        "--no-input", "--progress-bar=raw", f"--dest={folder}", f"--requirement={listing}",
    ]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    last = deque[str](maxlen=MOST_LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        try:
            for line in process.stdout or ():
                if progress := PROGRESS.match(line):
                    yield int(progress[1])
                else:
                    last.append(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        text = "".join(last)
        if FULL in text:
            raise UserError(f"{folder}: {FULL.lower()}; {remedy_of(OSError(errno.ENOSPC, ''))}, then call this again")
        if differs := DIFFERS.search(text):
            raise UserError(
                f"{differs[1]}: what arrived has not the SHA-256 that the index lists; call this again, or use another "
                "index"
            )
        raise UserError(f"{last_messages(text)}; what is downloaded is kept: call this again")


def _pip(uv: Path) -> list[str]:
    """Return the command of a pip that is new enough; uv fetches one where there is none."""
    try:
        if Version(importlib.metadata.version("pip")) >= RAW_PROGRESS:
            return [sys.executable, "-m", "pip"]
    except importlib.metadata.PackageNotFoundError:
        pass
    return [str(uv), "tool", "run", f"--python={sys.executable}", "pip"]


def requirements(wheels: Iterable[Wheel]) -> str:
    """Return the pinned requirements of wheels, each with its SHA-256."""
    lines = [f"{each.name}=={each.version} --hash=sha256:{each.sha256}\n" for each in wheels]
    return "".join(sorted(lines))


def last_messages(text: str) -> str:
    """Return the last messages of a tool in one line, without its drawings."""
    line = " ".join(re.sub(r"[^\x20-\x7e]|^ *\|", " ", text).split())
    return line if len(line) <= LONGEST_MESSAGE else f"... {line[-LONGEST_MESSAGE:]}"
