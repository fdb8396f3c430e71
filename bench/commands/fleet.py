"""`bench fleet`: the same run on many machines, and one report."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import refusing_damage, require_name
from bench.console import say
from bench.fleet.campaign import Fleet
from bench.fleet.driver import NODE_PYTHON, Node, NodeError, NodeOrder, node_name
from bench.fleet.report import (
    NODE_COLUMNS,
    SPEEDUP_COLUMNS,
    fleet_document,
    fleet_headlines,
    node_results,
)
from bench.fleet.state import (
    EVENTS,
    FLEET_SCHEMA,
    GOES_ON,
    MEASURED,
    FleetInfo,
    only_driver,
    read_events,
    read_fleet,
    write_fleet,
)
from bench.journal import disk_error, write_pages
from bench.machine.facts import INSTRUCTION_SETS
from bench.report.document import brief_table
from bench.report.page.html import to_html
from bench.report.writers import print_table, to_csv, to_markdown
from models.errors import UserError, unknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from bench.fleet.driver import Driver

DRIVERS = ("ssh", "slurm", "ray")
HOSTS, SSH_CONFIG, RUN_PYTHON = "hosts", "ssh_config", "python"
ADDRESS, PARTITION, MINUTES, USUAL_MINUTES = "address", "partition", "minutes", "240"
NODE_RESULTS, IDENTITY_DIGITS = "results", 16


@dataclass(frozen=True)
class FleetOptions:
    """What to measure and where; `arguments` are those of `bench run`."""

    driver: str
    home: str
    settings: Mapping[str, str]
    arguments: tuple[str, ...]
    results: Path
    name: str | None = None
    bundle: Path | None = None
    instruction_sets: tuple[str, ...] = ()
    free_gb: float = 1.0
    wait_minutes: float = 0.0
    patience_minutes: float = 30.0


def run_fleet(options: FleetOptions, console: Console) -> int:
    """Measure all nodes that a driver lists, and report; return 1 if one of them was not measured, else 0."""
    now = datetime.now(UTC)
    name = options.name or f"fleet-{now:%Y%m%d-%H%M%S}"
    require_name(name)
    for known in options.instruction_sets:
        if known not in INSTRUCTION_SETS:
            raise unknown("instruction set", known, INSTRUCTION_SETS)
    for option, value in (("--free", options.free_gb), ("--wait", options.wait_minutes)):
        if not 0 <= value < math.inf:
            raise UserError(f"{option} {value:g}: allowed: 0 or more")
    if not 0 < options.patience_minutes < math.inf:
        raise UserError(f"--patience {options.patience_minutes:g}: allowed: more than 0 minutes")
    bundle = options.bundle and options.bundle.absolute()
    if bundle and not (bundle / "install.sh").is_file():
        raise UserError(f"--bundle {bundle}: has no install.sh; make it with `bench bundle`")
    info = FleetInfo(
        schema=FLEET_SCHEMA,
        name=name,
        command=("bench", *sys.argv[1:]),
        started=now.isoformat(timespec="seconds"),
        driver=options.driver,
        home=options.home,
        settings=dict(options.settings),
        arguments=options.arguments,
        instruction_sets=options.instruction_sets,
        free_bytes=round(options.free_gb * 1e9),
        wait_s=round(options.wait_minutes * 60),
        patience_s=max(1, round(options.patience_minutes * 60)),
        bundle=str(bundle) if bundle else None,
    )
    folder = options.results / name
    driver = open_driver(info)
    try:
        make_folder(driver, info, folder)
        return _attend(driver, info, folder, (), console)
    finally:
        driver.close()


def make_folder(driver: Driver, info: FleetInfo, folder: Path) -> None:
    """Make the folder of a fleet; raises UserError if there is no node, or the folder can't be made."""
    try:
        nodes = driver.nodes()
    except NodeError as error:
        raise UserError(f"--driver {info.driver}: no nodes can be listed ({error})") from error
    if not nodes:
        raise UserError(f"--driver {info.driver}: there is no node; add some")
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        line = f"{folder}: exists already; go on with it by --resume {info.name}, or choose another --name"
        raise UserError(line) from error
    except OSError as error:
        raise disk_error(folder, error) from error
    write_fleet(folder, info)


def resume_fleet(results: Path, name: str, again: Sequence[str], console: Console) -> int:
    """Go on with a fleet where an earlier driver stopped; `again` names nodes that are started once more."""
    require_name(name, "--resume")
    folder = results / name
    info, events = read_fleet(folder), read_events(folder)
    for node in again:
        if node not in events:
            raise UserError(f"--again {node}: allowed: {', '.join(events) or 'no node yet'}")
        if events[node].status in MEASURED:
            raise UserError(f"--again {node}: its run is {events[node].status}; a fleet measures each node once")
    driver = open_driver(info)
    try:
        return _attend(driver, info, folder, again, console)
    finally:
        driver.close()


def _attend(driver: Driver, info: FleetInfo, folder: Path, again: Sequence[str], console: Console) -> int:
    try:
        with only_driver(folder):
            fleet = Fleet(driver, info, folder, partial(say, console), partial(order_for, info, folder))
            fleet.attend(again)
    except KeyboardInterrupt:
        say(
            console,
            f"interrupted; the nodes go on. `bench fleet run --resume {info.name}` attends them again, and "
            f"`bench fleet stop {folder}` stops them",
        )
        return 1
    return report_fleet(folder, console)


def report_fleet(folder: Path, console: Console) -> int:
    """Write the report of a fleet from its files; return 1 if a node was not measured, else 0."""
    info, events = read_fleet(folder), read_events(folder)
    if not events:
        raise UserError(f"{folder / EVENTS}: names no node yet")
    results = node_results(folder, list(events.values()), refusing_damage)
    document = fleet_document(info, results)
    rows = [each for result in results for each in result.speedups]
    texts = {
        "report.md": to_markdown(document),
        "report.html": to_html(document, {}),
        "nodes.csv": to_csv(results, NODE_COLUMNS),
        "speedups.csv": to_csv(rows, SPEEDUP_COLUMNS),
    }
    write_pages(folder, texts, {})
    print_table(brief_table(results, NODE_COLUMNS, title=document.title), console)
    console.print()
    for line in (*document.warnings, *fleet_headlines(results)):
        say(console, line)
    say(console, f"report: {folder / 'report.html'}")
    return 0 if all(result.is_measured for result in results) else 1


def stop_fleet(folder: Path, console: Console) -> int:
    """Stop the runs of a fleet on all nodes where they have not ended; return 1 if one can't be stopped, else 0.

    What they have measured stays there.
    """
    info, events = read_fleet(folder), read_events(folder)
    driver, status = open_driver(info), 0
    try:
        with only_driver(folder):
            for event in events.values():
                if event.status in GOES_ON:
                    node = Node(event.node, event.address)
                    try:
                        driver.stop(node, order_for(info, folder, node))
                        say(console, f"{event.node}: stopped")
                    except NodeError as error:
                        say(console, f"{event.node}: can't be stopped: {error}")
                        status = 1
    finally:
        driver.close()
    return status


def order_for(info: FleetInfo, folder: Path, node: Node) -> NodeOrder:
    """Return what a node is to run.

    Its name is that of no run of another node, which may share the folder for results, or of another fleet of this
    name.
    """
    # Slurm's nodes write where the driver reads.
    shared = f"{folder.absolute()}.on-nodes" if info.driver == "slurm" else ""
    parts = json.dumps([info.name, info.started, info.command, node.name])
    identity = hashlib.sha256(parts.encode()).hexdigest()
    return NodeOrder(
        name=f"{node_name(info.name)[:40]}.{node.name[:40]}.{identity[:IDENTITY_DIGITS]}",
        results=shared or f"{info.home}/{NODE_RESULTS}",
        arguments=info.arguments,
        wait_s=info.wait_s,
        instruction_sets=info.instruction_sets,
        free_bytes=info.free_bytes,
        whole=info.driver != "ssh",
        nice=0 if info.driver == "ray" else None,
    )


def open_driver(info: FleetInfo) -> Driver:
    """Return the driver; raises UserError where its component or a setting is missing, with how to get it."""
    settings, home = info.settings, info.home
    python = settings.get(RUN_PYTHON, NODE_PYTHON)
    match info.driver:
        case "ssh":
            from bench.fleet.ssh import SshDriver

            if HOSTS not in settings:
                raise UserError("--driver ssh: name a file with one destination of ssh on each line: --hosts FILE")
            config = settings.get(SSH_CONFIG)
            return SshDriver(Path(settings[HOSTS]), home, python, Path(config) if config else None)
        case "ray":
            from bench.fleet.ray_cluster import AUTO, RayDriver

            return RayDriver(settings.get(ADDRESS, AUTO), home, python, info.wait_s)
        case "slurm":
            from bench.fleet.slurm import SlurmDriver

            minutes = settings.get(MINUTES, USUAL_MINUTES)
            if not minutes.isdecimal():
                raise UserError(f"--minutes {minutes}: allowed: 1 or more")
            return SlurmDriver(settings.get(PARTITION), home, python, int(minutes), info.wait_s)
        case _:
            raise unknown("driver", info.driver, DRIVERS)
