"""The files of a fleet's folder: what it was asked for, and what has happened to each node."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from bench.codec import CodecError, decode, encode, read_json
from bench.fleet.driver import node_name
from bench.journal import disk_error, refuse_links, write_atomically
from bench.processes.lock import only_command_in
from bench.records import COMPLETE, INTERRUPTED, SETTLED
from models.errors import UserError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

_T = TypeVar("_T")

FLEET, EVENTS, NODE_RUNS = "fleet.json", "fleet.jsonl", "nodes"
FLEET_SCHEMA = 1
# What can be the case with a node. Those that have not ended are attended again when the fleet goes on.
# The others have a reason why they have no numbers.
PENDING, MEASURING, CRASHED, REFUSED, LOST, LEFT, STRAGGLED, DAMAGED = (
    "pending", "measuring", "crashed", "refused", "lost", "left", "straggled", "damaged",
)  # fmt: skip
MEASURED = (COMPLETE, SETTLED)
GOES_ON = (PENDING, MEASURING, INTERRUPTED, LOST, LEFT, STRAGGLED)


@dataclass(frozen=True)
class FleetInfo:
    """What a fleet was asked for: a driver with its settings, and the arguments of `bench run`.

    `home` is the folder of the checkout, or of an installed bundle, on every node.
    `patience_s` is how long a node that measures may write no record.
    """

    schema: int
    name: str
    command: tuple[str, ...]
    started: str
    driver: str
    home: str
    settings: dict[str, str]
    arguments: tuple[str, ...]
    instruction_sets: tuple[str, ...]
    free_bytes: int
    wait_s: int
    patience_s: int
    bundle: str | None = None


@dataclass(frozen=True)
class NodeEvent:
    """What has become the case with a node, and why. `starts` is how often the fleet has started a run there."""

    node: str
    address: str
    status: str
    reason: str
    at: str
    starts: int = 0
    machine: str = ""
    note: str = ""


def write_fleet(folder: Path, info: FleetInfo) -> None:
    write_atomically(folder / FLEET, json.dumps(encode(info), indent=1) + "\n")


def read_fleet(folder: Path) -> FleetInfo:
    refuse_links(folder)
    try:
        info = _read(FleetInfo, (folder / FLEET).read_text(encoding="utf-8"), folder / FLEET)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder / FLEET}: can't be read; name the folder of a fleet, such as results/FLEET"
        ) from error
    if info.schema != FLEET_SCHEMA:
        raise UserError(f"{folder / FLEET}: has schema {info.schema}; this version reads schema {FLEET_SCHEMA}")
    return info


def read_events(folder: Path) -> dict[str, NodeEvent]:
    """Return the last event of each node by its name; a line that was not finished does not count."""
    path = folder / EVENTS
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read ({error})") from error
    events = {event.node: event for event in (_read(NodeEvent, line, path) for line in lines if line.endswith("\n"))}
    for name in events:
        # It is the name of a folder.
        if name != node_name(name):
            raise UserError(f"{path}: damaged: {name!a} can't be the name of a node")
    return events


def drop_unfinished(folder: Path) -> None:
    """Remove the line of a driver that was killed while it wrote."""
    path = folder / EVENTS
    try:
        with path.open("a+b") as stream:
            stream.truncate(path.read_bytes().rfind(b"\n") + 1)
    except OSError as error:
        raise disk_error(path, error) from error


def append_event(folder: Path, event: NodeEvent) -> None:
    path = folder / EVENTS
    line = json.dumps(encode(event)) + "\n"
    try:
        with path.open("ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


def only_driver(folder: Path) -> AbstractContextManager[None]:
    """Keep a second driver off the same fleet."""
    return only_command_in(folder, "another process drives this fleet; wait for its end")


def _read(kind: type[_T], text: str, path: Path) -> _T:
    try:
        return decode(kind, read_json(text))
    except CodecError as error:
        raise UserError(f"{path}: damaged: {error}") from error
