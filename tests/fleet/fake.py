"""A driver whose nodes are recorded runs, with one fault each."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from bench.fleet.driver import Node, NodeLostError, NodeRefusedError, Started
from bench.fleet.node import journal_lines
from bench.fleet.state import FLEET_SCHEMA, FleetInfo
from tests.analysis.recorded_run import inference_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bench.fleet.driver import NodeOrder

INFO = FleetInfo(
    FLEET_SCHEMA, "f", ("bench",), "2026-01-01T00:00:00+00:00", "fake", "/h", {}, (), (), 0, 0, 60
)  # fmt: skip


class FakeDriver:
    """Nodes by name, each with a fault or none; `calls` are what the driver was asked for."""

    def __init__(self, folder: Path, faults: dict[str, str]) -> None:
        self.folder, self.faults, self.calls = folder, faults, list[tuple[object, ...]]()
        # Called when a stream has begun.
        self.while_streaming: Callable[[str], None] = lambda _: None

    def nodes(self) -> list[Node]:
        return [Node(name, name) for name in self.faults]

    def place(self, node: Node, bundle: Path) -> None:
        self.calls.append(("place", node.name, bundle))

    def start(self, node: Node, order: NodeOrder) -> Started:
        self.calls.append(("start", node.name))
        if self.faults[node.name] == "refuses":
            raise NodeRefusedError("the CPU lacks amx_tile")
        machine = "one" if self.faults[node.name] == "twin" else node.name
        return Started(begun=True, machine=machine, cpu="c", cores=2, nice=0)

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]:
        self.calls.append(("stream", node.name, offset))
        self.while_streaming(node.name)
        fault, run = self.faults[node.name], self.run(node.name)
        yield b"R" + json.dumps((run / "run.json").read_text()).encode()
        lines = [line for line, _ in journal_lines(run / "journal.jsonl", offset)]
        for number, line in enumerate(lines):
            if fault == "dies" and number == 20:
                raise NodeLostError("no route to host")
            if fault == "lies" and number == 20:
                yield b"J" + line.replace(b"cnn-small", b"cnn-large")
                return
            if fault == "silent" and number == 20:
                while True:
                    yield b"Hmeasuring"
            yield b"J" + line
        yield b'E{"status": 0, "line": ""}'

    def stop(self, node: Node, order: NodeOrder) -> None:
        self.calls.append(("stop", node.name))

    def close(self) -> None:
        pass

    def run(self, name: str) -> Path:
        """Return the folder of the run that a node has measured."""
        folder = self.folder / name
        if not folder.exists():
            seed = int(hashlib.sha256(name.encode()).hexdigest()[:6], 16)
            inference_run(folder, seed=seed).describe(seed=seed).write()
        return folder
