"""What every driver of a fleet does: list the nodes, place a bundle, start a run, stream its journal, stop it."""

from __future__ import annotations

import re
import select
import time
from dataclasses import dataclass
from os import read
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# A node says that it is alive at least this often while it streams, and counts as lost after the longer time.
HEARTBEAT_S, SILENCE_S = 15.0, 75.0
# How long a node may take to answer a request, and to install a bundle.
ANSWER_S, INSTALL_S = 180.0, 3600.0
# The longest line of a journal or answer, and the most that one read takes from a node.
MOST_LINE_BYTES, CHUNK_BYTES = 1 << 24, 1 << 16
LONGEST_LINE = 300
# How long errors are waited for after the end of the output.
LAST_ERRORS_S = 1.0
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
# A bundle is known by its list of digests.
INSTALL = """\
cmp -s -- "$1/SHA256SUMS" "$2/.bundle" && exit 0
sh -- "$1/install.sh" "$2" && cp -- "$1/SHA256SUMS" "$2/.bundle"
"""
# The interpreter of the node's checkout, unless another one is named.
NODE_PYTHON = ".tox/vanilla/bin/python"


@dataclass(frozen=True)
class Node:
    """A machine, or a part of one: `name` in reports, `address` for its driver, and what a reader should know."""

    name: str
    address: str
    note: str = ""


@dataclass(frozen=True)
class NodeOrder:
    """What a node is to run: `bench run` with these arguments, into a folder `name` below `results`.

    If there is a `trial` of a search, this JSON is given to `bench fleet trial` instead.

    The node refuses unless it has the instruction sets and the free bytes. It waits up to `wait_s` for the end of
    another measurement. `whole`: it refuses if it may not use all of its CPUs. `nice` is restored where it is not None.
    While it measures, the size of the journal is looked at every `look_s` seconds, and nothing else.
    """

    name: str
    results: str
    arguments: tuple[str, ...]
    wait_s: int = 0
    instruction_sets: tuple[str, ...] = ()
    free_bytes: int = 0
    whole: bool = False
    nice: int | None = None
    look_s: float = 5.0
    trial: str = ""


@dataclass(frozen=True)
class Started:
    """What a node tells when it has started a run; `begun` is false if it found it under way or ended.

    `machine` is equal for nodes that run on the same kernel.
    """

    begun: bool
    machine: str
    cpu: str
    cores: int
    nice: int


@dataclass(frozen=True)
class Stopped:
    """What a node tells when a run has ended that was to be stopped."""


@dataclass(frozen=True)
class Ended:
    """How the command on a node ended: its exit status, None if it was killed, and the last line of its errors.

    Of a trial that has ended well, it is the line with the result.
    """

    status: int | None
    line: str = ""


class NodeError(Exception):
    """A node that can't be measured; the text is the reason in its row."""

    def __init__(self, reason: str) -> None:
        super().__init__(one_line(reason))


class NodeRefusedError(NodeError):
    """The node has answered, and will not or can't measure."""


class NodeLostError(NodeError):
    """The node does not answer."""


class NodeDamagedError(NodeError):
    """The node sends what no run of this harness writes."""


class Driver(Protocol):
    """A way to reach nodes. Its methods are called from several threads, one for each node.

    They raise NodeError. `stream` yields frames, as bench/fleet/node.py defines them, from this offset of the journal
    on, until the run has ended.
    """

    def nodes(self) -> list[Node]: ...

    def place(self, node: Node, bundle: Path) -> None: ...

    def start(self, node: Node, order: NodeOrder) -> Started: ...

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]: ...

    def stop(self, node: Node, order: NodeOrder) -> None: ...

    def close(self) -> None: ...


def node_command(home: str, python: str = NODE_PYTHON) -> tuple[str, ...]:
    """Return the command that answers a driver's requests, in the checkout or the placed bundle `home` of a node."""
    interpreter = python if python.startswith("/") else f"{home}/{python}"
    return interpreter, "-I", "-m", "bench.fleet.node"


def install_command(bundle: str, home: str) -> tuple[str, ...]:
    """Return the command that installs a bundle, which a node sees at this path, into `home`, unless it is there."""
    return "sh", "-c", INSTALL, "install", bundle, home


def node_name(address: str) -> str:
    return NOT_IN_NAMES.sub("-", address).strip("-._")[:60] or "node"


def one_line(text: str) -> str:
    """Return text that a node sent, as one line that is safe to show."""
    line = " ".join(text.split())[:LONGEST_LINE]
    return line if line.isprintable() else ascii(line)[1:-1]


def chunks_from(output: int, errors: int, said: bytearray, silence_s: float) -> Iterator[bytes]:
    """Yield what arrives at the descriptor `output`, and keep in `said` the end of what arrives at `errors`.

    Raises NodeLostError if `output` is silent for so long.
    """
    poll, left, deadline = select.poll(), {output, errors}, time.monotonic() + silence_s
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    while left and (ready := poll.poll(max(0.0, deadline - time.monotonic()) * 1000)):
        for descriptor, _ in ready:
            chunk = read(descriptor, CHUNK_BYTES)
            if not chunk:
                poll.unregister(descriptor)
                left.remove(descriptor)
            if descriptor == errors:
                said += chunk
                del said[:-CHUNK_BYTES]
            elif chunk:
                deadline = time.monotonic() + silence_s
                yield chunk
            else:
                # A connection that ssh keeps for others does not close its errors.
                deadline = time.monotonic() + LAST_ERRORS_S
    if output in left:
        raise NodeLostError(f"no sign of life for {silence_s:.0f} s")


def lines_from(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the complete lines in what arrives, without their ends; raises NodeDamagedError for one without an end."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        if b"\n" in chunk:
            *lines, last = bytes(rest).split(b"\n")
            rest = bytearray(last)
            yield from lines
        elif len(rest) > MOST_LINE_BYTES:
            raise NodeDamagedError(f"a line of more than {MOST_LINE_BYTES:,} bytes")
