"""The driver of a fleet with many simulated nodes: its memory, its CPU time, and whether anything is lost.

A second process plays the journal of a recorded run into a pipe for each node, at the rate at which it was written, in
pieces of five seconds as a node sends them. `python tests/experiments/fleet.py NODES SECONDS [FOLDER]`
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import bench.commands.fleet  # noqa: E402, F401 - its memory belongs to that of the driver
from bench.fleet.campaign import Fleet  # noqa: E402
from bench.fleet.driver import SILENCE_S, Node, NodeOrder, Started, chunks_from, lines_from  # noqa: E402
from bench.fleet.state import FLEET_SCHEMA, FleetInfo  # noqa: E402
from bench.journal import Journal, read_journal  # noqa: E402
from bench.records import End  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE_S = 5.0


class PipeDriver:
    """Nodes whose frames arrive in pipes, by the code that reads those of ssh."""

    def __init__(self, pipes: dict[str, int]) -> None:
        self.pipes, (self.errors, self._sink) = pipes, os.pipe()

    def nodes(self) -> list[Node]:
        return [Node(name, name) for name in self.pipes]

    def place(self, node: Node, bundle: Path) -> None:
        raise NotImplementedError

    def start(self, node: Node, order: NodeOrder) -> Started:
        return Started(begun=True, machine=node.name, cpu="simulated", cores=2, nice=0)

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]:
        return lines_from(chunks_from(self.pipes[node.name], self.errors, bytearray(), SILENCE_S))

    def stop(self, node: Node, order: NodeOrder) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def shortened_run(seconds: float, folder: Path) -> Path:
    """Write the first part of the reference run, as long as it took to measure."""
    reference = ROOT / "results" / "reference"
    *records, end = read_journal(reference)
    assert isinstance(end, End)
    share = min(1.0, seconds * 1e9 / end.wall_ns)
    folder.mkdir()
    (folder / "run.json").write_bytes((reference / "run.json").read_bytes())
    with Journal(folder) as journal:
        for record in records[: round(len(records) * share)]:
            journal.append(record)
        journal.append(end)
    return folder


def play(run: Path, pipes: list[int], seconds: float) -> None:
    """Write the frames of a run into each pipe, piece by piece; the nodes take turns within the five seconds."""
    lines = (run / "journal.jsonl").read_bytes().splitlines()
    pieces = max(1, round(seconds / PIECE_S))
    size = -(-len(lines) // pieces)
    begin = time.monotonic()
    for number in range(pieces):
        frames = b"".join(b"J" + line + b"\n" for line in lines[number * size : (number + 1) * size])
        if number == 0:
            frames = b"R" + json.dumps((run / "run.json").read_text()).encode() + b"\n" + frames
        if number == pieces - 1:
            frames += b'E{"status": 0, "line": ""}\n'
        for index, pipe in enumerate(pipes):
            wait_s = begin + (number + index / len(pipes)) * PIECE_S - time.monotonic()
            time.sleep(max(0.0, wait_s))
            view = memoryview(frames)
            while view:
                view = view[os.write(pipe, view) :]


def main() -> None:
    count, seconds = int(sys.argv[1]), float(sys.argv[2])
    base = Path(sys.argv[3]) if sys.argv[3:] else Path(tempfile.mkdtemp(prefix="bench-fleet-"))
    run = shortened_run(seconds, base / "run")
    ends = [os.pipe() for _ in range(count)]
    if not os.fork():
        play(run, [sink for _, sink in ends], seconds)
        os._exit(0)
    for _, sink in ends:
        os.close(sink)
    info = FleetInfo(FLEET_SCHEMA, "f", (), "", "pipe", "/h", {}, (), (), 0, 0, 3600)
    driver = PipeDriver({f"node{index:03}": source for index, (source, _) in enumerate(ends)})
    fleet_folder = base / "fleet"
    fleet_folder.mkdir()
    fleet = Fleet(driver, info, fleet_folder, lambda _: None, lambda node: NodeOrder(node.name, "/", ()))
    before, begin = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    events = fleet.attend()
    after, wall_s = resource.getrusage(resource.RUSAGE_SELF), time.monotonic() - begin
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    journal = (run / "journal.jsonl").read_bytes()
    whole = sum((fleet_folder / "nodes" / name / "journal.jsonl").read_bytes() == journal for name in events)
    complete = sum(event.status == "complete" for event in events.values())
    print(f"{count} nodes, {wall_s:.0f} s, {len(journal) / 1e6:.1f} MB of journal each")
    print(f"driver: {after.ru_maxrss / 1e3:.0f} MB at most, {cpu_s:.2f} CPU-s, {cpu_s / wall_s:.1%} of a core")
    print(f"{complete} complete, {whole} journals equal byte by byte")


if __name__ == "__main__":
    main()
