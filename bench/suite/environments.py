"""Where each stack's environment is, what is installed in it, and whether two of them are matched."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
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
    """A virtualenv: its interpreter, and every distribution installed in it with its version."""

    name: str
    python: Path
    python_version: str
    packages: dict[str, str]

    @property
    def folder(self) -> Path:
        """Return the virtualenv's folder."""
        return self.python.parents[1]

    @property
    def installed_bytes(self) -> int | None:
        """Return the size of all files in the virtualenv; None for the harness's own interpreter."""
        if self.name == HARNESS:
            return None
        sizes = (
            entry.stat(follow_symlinks=False).st_size
            for folder, _, _ in os.walk(self.folder)
            for entry in os.scandir(folder)
            if entry.is_file(follow_symlinks=False)
        )
        return sum(sizes)


class MissingEnvironmentError(UserError):
    """An environment that is not there or lacks its stack; the message tells the command that makes it."""


def environments_dir() -> Path:
    """Return the folder that holds the environments: the one tox made, of this checkout or of the current folder."""
    if folder := os.environ.get(ENVIRONMENTS_DIR):
        return Path(folder)
    checkout = Path(__file__).parents[2] / ".tox"
    return checkout if checkout.is_dir() else Path.cwd() / ".tox"


def environment_names() -> list[str]:
    """Return the environments that stacks live in."""
    return sorted({stack.environment for stack in stacks().values() if stack.environment})


def find_stack(name: str) -> Stack:
    """Return a stack by name; raises UserError for an unknown one."""
    known = stacks()
    if name not in known:
        raise unknown("stack", name, [stack.name for stack in known.values() if not stack.internal])
    return known[name]


def environment_of(stack: Stack) -> Environment:
    """Return the environment of `stack`.

    Raises MissingEnvironmentError when it is not there, or when the stack's packages are not installed in it.
    """
    if stack.environment is None:
        return _harness()
    environment = _environment(environments_dir() / stack.environment)
    wanted = [_canonical(name) for name in (*stack.packages, OWN_DISTRIBUTION)]
    if missing := [name for name in wanted if name not in environment.packages]:
        raise MissingEnvironmentError(
            f"environment {stack.environment} lacks {', '.join(missing)}; make it anew: "
            f"tox -r -e {stack.environment} --notest"
        )
    return environment


def is_installed(stack: Stack) -> bool:
    """Tell whether a stack's environment is there, with all that it needs."""
    try:
        environment_of(stack)
    except MissingEnvironmentError:
        return False
    return True


@cache
def _environment(folder: Path) -> Environment:
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/python3*/site-packages"), None)
    if site is None or not python.exists() or not (folder / "pyvenv.cfg").exists():
        raise MissingEnvironmentError(
            f"environment {folder.name} does not exist or is damaged; make it: tox -r -e {folder.name} --notest"
        )
    told = (folder / "pyvenv.cfg").read_text(errors="replace")
    version = re.search(r"^version(?:_info)? *= *([\d.]+)", told, re.MULTILINE)
    return Environment(folder.name, python, version[1].rstrip(".") if version else "unknown", _packages([str(site)]))


def _harness() -> Environment:
    return Environment(HARNESS, Path(sys.executable), platform.python_version(), _packages(sys.path))


def _packages(path: list[str]) -> dict[str, str]:
    found = importlib.metadata.distributions(path=path)
    named = [(each.name, each) for each in found]  # a broken install leaves folders without a name
    return dict(sorted((_canonical(name), each.version) for name, each in named if name))


def _canonical(name: str) -> str:
    """Normalise a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def differences(ours: Environment, theirs: Environment) -> dict[str, tuple[str, str]]:
    """Return {package: (our version, their version)} of shared packages that differ; empty when matched."""
    mine = ours.packages | {"python": ours.python_version}
    other = theirs.packages | {"python": theirs.python_version}
    shared = (mine.keys() & other.keys()) - {OWN_DISTRIBUTION}
    return {name: (mine[name], other[name]) for name in sorted(shared) if mine[name] != other[name]}
