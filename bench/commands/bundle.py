"""`bench bundle`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.bundle.bundle import (
    INSTALLER,
    SUMS,
    Planned,
    add_data,
    add_installer,
    add_project,
    add_python,
    add_tools,
    download_wheels,
    partial_folder,
    plan_bundle,
    refuse_existing,
    require_official,
    write_sums,
)
from bench.bundle.project import choose_environments, unknown_files
from bench.bundle.wheels import PYTHON, find_uv
from bench.checkout import CHECKOUT
from bench.console import WARNING, say, steps
from bench.report.document import Column, table
from bench.report.writers import print_table
from bench.suite.environments import environment_names, environments_dir
from models.data import official_folder
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rich.console import Console

    from bench.bundle.wheels import Wheel

CUDA = "nvidia-"


@dataclass(frozen=True)
class BundleOptions:
    """What `bench bundle` was asked for."""

    target: Path
    environments: Sequence[str]
    torch: str | None
    data: str
    checkout: Path = CHECKOUT


@dataclass(frozen=True)
class Size:
    """A row of the table of sizes."""

    name: str
    wheels: int
    total_bytes: int
    missing_bytes: int


SIZE_COLUMNS: tuple[Column[Size], ...] = (
    Column("", lambda size: size.name, "Environment", numeric=False),
    Column("", lambda size: size.wheels, "Wheels"),
    Column("", lambda size: f"{size.total_bytes / 1e6:,.0f}", "MB"),
    Column("", lambda size: f"{size.missing_bytes / 1e6:,.0f}", "To download, MB"),
)


def make_bundle(options: BundleOptions, console: Console) -> None:
    """Make a bundle of environments, data and project in a folder that appears when it is complete."""
    target = options.target.absolute()
    refuse_existing(target)
    chosen = choose_environments(options.environments, environment_names(), environments_dir(), options.checkout)
    uv = find_uv(environments_dir())
    official = official_folder(options.data)
    if official:
        require_official(official)
    with partial_folder(target) as partial:
        say(console, f"finding the wheels of {', '.join(each.name for each in chosen)} and of the tools")
        planned = plan_bundle(uv, options.checkout, chosen, options.torch, partial)
        print_table(table(_sizes(planned), SIZE_COLUMNS, title="Before"), console)
        if any(wheel.name.startswith(CUDA) for wheel in planned.missing):
            say(console, "torch is the CUDA build here; UV_TORCH_BACKEND=cpu or --torch-index gives the CPU build")
        if planned.missing:
            with steps(console, {"": planned.missing_bytes}) as progress:
                download_wheels(uv, planned, partial, progress.step)
        add_tools(planned, partial)
        python = _python(partial, console)
        if official:
            add_data(official, partial)
        else:
            say(console, "no Fashion-MNIST in the bundle: the machine will use the synthetic data set", WARNING)
        add_project(options.checkout, partial)
        if left_out := unknown_files(options.checkout):
            say(console, f"not in the bundle, because git does not know them: {', '.join(left_out)}", WARNING)
        add_installer(planned, python, partial)
        say(console, "computing SHA-256 sums")
        digest = write_sums(planned, partial)
    sizes = {path: _bytes(path) for path in sorted(target.iterdir())}
    parts = ", ".join(f"{path.name} {size / 1e6:,.0f} MB" for path, size in sizes.items())
    say(console, f"{options.target}: {sum(sizes.values()) / 1e9:.2f} GB ({parts})")
    say(console, f"SHA-256 of {SUMS}: {digest}")
    say(console, f"copy it to the machine; there: sh {target.name}/{INSTALLER}")


def _python(partial: Path, console: Console) -> str:
    try:
        return add_python(partial)
    except UserError as error:
        say(console, f"no Python in the bundle: the machine must have Python {PYTHON} ({error})", WARNING)
        return ""


def _sizes(planned: Planned) -> list[Size]:
    groups = [*planned.wheels.items(), ("together", _distinct(planned))]
    missing = {wheel.file for wheel in planned.missing}
    return [
        Size(name, len(wheels), _total(wheels), _total(wheel for wheel in wheels if wheel.file in missing))
        for name, wheels in groups
    ]


def _distinct(planned: Planned) -> list[Wheel]:
    return list({wheel.file: wheel for wheels in planned.wheels.values() for wheel in wheels}.values())


def _total(wheels: Iterable[Wheel]) -> int:
    return sum(wheel.size_bytes or 0 for wheel in wheels)


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())
