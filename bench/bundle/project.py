"""What the project's own files say: its environments, the tools that make them, and which files belong to it."""

from __future__ import annotations

import configparser
import os
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.checkout import COMMIT, commit, git
from models.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TOX, PYPROJECT = "tox.ini", "pyproject.toml"
TOOLS = "tools"
PACKAGES = ("bench", "backends", "models")
# hatchling asks for it when it makes an editable installation.
EDITABLES = "editables"
# Not of the project where git cannot say what is: environments, runs and caches.
FOREIGN = {"results", "build", "dist", "__pycache__"}


@dataclass(frozen=True)
class Requested:
    """What an environment is made of: extras and dependency groups of the project, and settings of uv."""

    name: str
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


def requested_environments(checkout: Path) -> dict[str, Requested]:
    """Return the environments with extras in tox.ini, by name."""
    parser = _tox(checkout)
    found = {}
    for section in parser.sections():
        kind, _, name = section.partition(":")
        if kind == "testenv" and name and parser.has_option(section, "extras"):
            settings = {**_options(parser, "testenv"), **_options(parser, section)}
            lines = (line.partition("=") for line in settings.get("set_env", "").splitlines())
            variables = {key.strip(): value.strip().replace("{tox_root}", str(checkout)) for key, _, value in lines}
            found[name] = Requested(
                name,
                tuple(settings["extras"].replace(",", " ").split()),
                tuple(settings.get("dependency_groups", "").replace(",", " ").split()),
                tuple((key, value) for key, value in variables.items() if key.startswith("UV_")),
            )
    return found


def choose_environments(names: Sequence[str], stacks: Sequence[str], built: Path, checkout: Path) -> list[Requested]:
    """Return the environments of these names; without names those of stacks that are built, or that tox would build."""
    known = {name: item for name, item in requested_environments(checkout).items() if name in stacks}
    for name in names:
        if name not in known:
            raise unknown("environment", name, known)
    by_default = _tox(checkout).get("tox", "env_list", fallback="").replace(",", " ").split()
    existing = [name for name in known if (built / name / "pyvenv.cfg").exists()]
    chosen = names or existing or [name for name in by_default if name in known]
    return [known[name] for name in dict.fromkeys(chosen)]


def tool_requirements(checkout: Path) -> list[str]:
    """Return the requirements of what makes the environments: those of tox itself, and those of a build."""
    with (checkout / PYPROJECT).open("rb") as file:
        build: list[str] = tomllib.load(file)["build-system"]["requires"]
    tox = _tox(checkout).get("tox", "requires", fallback="tox").split("\n")
    return [line for line in (*tox, *build, EDITABLES) if line.strip()]


def unknown_files(checkout: Path) -> list[str]:
    """Return the modules and suites that git does not know, so that a bundle lacks them."""
    packages = (name for name in PACKAGES if (checkout / name).is_dir())
    return (git(checkout, "ls-files", "--others", "--exclude-standard", "--", *packages) or "").splitlines()


def copy_project(checkout: Path, target: Path) -> None:
    """Copy the project's files as they are; a file names the commit."""
    for path in _files(checkout):
        if (source := checkout / path).is_symlink() or not source.is_file():
            continue
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / path)
    if known := commit(checkout):
        (target / COMMIT).write_text(f"{known}\n", encoding="utf-8")


def _files(checkout: Path) -> list[Path]:
    """Return the files under version control or, without git, all but what tools leave behind."""
    listed = git(checkout, "ls-files", "-z")
    if listed:
        return [Path(name) for name in listed.split("\0") if name]
    found = []
    for folder, folders, names in os.walk(checkout):
        folders[:] = [name for name in folders if name not in FOREIGN and not name.startswith(".")]
        found += [Path(folder, name).relative_to(checkout) for name in names if not name.endswith(".pyc")]
    return found


def _tox(checkout: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, comment_prefixes=(";", "#"))
    if not parser.read(checkout / TOX, encoding="utf-8"):
        raise UserError(
            f"{checkout}: holds no {TOX}; run this from a checkout of the project, or from an environment that tox made"
        )
    return parser


def _options(parser: configparser.ConfigParser, section: str) -> Mapping[str, str]:
    return dict(parser[section]) if parser.has_section(section) else {}
