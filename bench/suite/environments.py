"""The stacks' environments: where they are, what is installed in them, and whether two of them match."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import stat
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from backends.registry import stacks
from models.errors import UserError, unknown

if TYPE_CHECKING:
    from backends.protocol import Stack

ENVIRONMENTS_DIR = "BENCH_ENVIRONMENTS_DIR"
OWN_DISTRIBUTION = "cnn-stack-bench"
HARNESS = "harness"


@dataclass(frozen=True)
class Environment:
    """A virtualenv: its interpreter, and the version of every distribution installed in it."""

    name: str
    python: Path
    python_version: str
    packages: dict[str, str]

    @property
    def folder(self) -> Path:
        return self.python.parents[1]

    @property
    def installed_bytes(self) -> int | None:
        """Return the size of all files in the virtualenv; None for the harness's own interpreter."""
        if self.name == HARNESS:
            return None
        return sum(_size(Path(folder, name)) for folder, _, names in os.walk(self.folder) for name in names)


def _size(path: Path) -> int:
    """Return the size of a file; 0 for what is none, or was removed meanwhile."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


class MissingEnvironmentError(UserError):
    """An environment that does not exist or lacks packages; the message names the command that makes it."""


def environments_dir() -> Path:
    """Return the folder of the environments: `.tox` of this checkout or, without one, of the current folder."""
    if folder := os.environ.get(ENVIRONMENTS_DIR):
        # Absolute, because workers run in another folder.
        return Path(folder).absolute()
    checkout = Path(__file__).parents[2] / ".tox"
    return checkout if checkout.is_dir() else Path.cwd() / ".tox"


def environment_names() -> list[str]:
    return sorted({stack.environment for stack in stacks().values() if stack.environment})


def find_stack(name: str) -> Stack:
    known = stacks()
    if name not in known:
        raise unknown("stack", name, [stack.name for stack in known.values() if not stack.internal])
    return known[name]


def environment_of(stack: Stack) -> Environment:
    """Return the environment of `stack`.

    Raises MissingEnvironmentError when it does not exist, or when packages of the stack are not installed in it.
    """
    if stack.environment is None:
        return Environment(HARNESS, Path(sys.executable), platform.python_version(), _installed(sys.path))
    environment = _environment(environments_dir() / stack.environment)
    required = [_canonical(name) for name in (*stack.packages, OWN_DISTRIBUTION)]
    if missing := [name for name in required if name not in environment.packages]:
        raise MissingEnvironmentError(
            f"environment {stack.environment} lacks {', '.join(missing)}; make it again: "
            f"tox -r -e {stack.environment} --notest"
        )
    return environment


def is_installed(stack: Stack) -> bool:
    try:
        environment_of(stack)
    except MissingEnvironmentError:
        return False
    return True


def version_differences(ours: Environment, theirs: Environment) -> dict[str, tuple[str, str]]:
    """Return {package: (our version, their version)} for shared packages that differ; empty when they match."""
    our_versions = ours.packages | {"python": ours.python_version}
    their_versions = theirs.packages | {"python": theirs.python_version}
    shared = (our_versions.keys() & their_versions.keys()) - {OWN_DISTRIBUTION}
    return {
        name: (our_versions[name], their_versions[name])
        for name in sorted(shared)
        if our_versions[name] != their_versions[name]
    }


@cache
def _environment(folder: Path) -> Environment:
    python, configuration = folder / "bin" / "python", folder / "pyvenv.cfg"
    site = next(folder.glob("lib/python3*/site-packages"), None)
    if site is None or not python.exists() or not configuration.exists():
        raise MissingEnvironmentError(
            f"environment {folder.name} does not exist or is damaged; make it: tox -r -e {folder.name} --notest"
        )
    # venv writes `version`, virtualenv `version_info`, which ends in ".final.0".
    text = configuration.read_text(errors="replace")
    version = re.search(r"^version(?:_info)? *= *([\d.]+)", text, re.MULTILINE)
    return Environment(folder.name, python, version[1].rstrip(".") if version else "unknown", _installed([str(site)]))


def _installed(path: list[str]) -> dict[str, str]:
    # An interrupted installation leaves folders of distributions without a name.
    distributions = importlib.metadata.distributions(path=path)
    return dict(sorted((_canonical(name), item.version) for item in distributions if (name := item.name)))


def _canonical(name: str) -> str:
    """Normalise a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
