"""Attend all nodes of a fleet at once, until each has ended or has a reason why it did not."""

from __future__ import annotations

import math
import queue
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Semaphore, Thread
from typing import TYPE_CHECKING

from bench.clock import now_ns
from bench.fleet.driver import NodeDamagedError, NodeError, NodeLostError, NodeRefusedError
from bench.fleet.mirror import Mirror
from bench.fleet.node import USER_INPUT, WAITING, RefusalError
from bench.fleet.state import (
    CRASHED,
    DAMAGED,
    GOES_ON,
    LEFT,
    LOST,
    MEASURED,
    MEASURING,
    NODE_RUNS,
    PENDING,
    REFUSED,
    STRAGGLED,
    FleetInfo,
    NodeEvent,
    append_event,
    drop_unfinished,
    read_events,
)
from bench.journal import disk_error
from bench.records import INTERRUPTED
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from bench.fleet.driver import Driver, Ended, Node, NodeOrder

# Nodes that are started, or get a bundle, at the same time.
STARTS_AT_ONCE = 16
# How often the driver lists its nodes again, and says how far they are.
LIST_S, SAY_S = 10.0, 60.0


@dataclass(frozen=True)
class Crash:
    """An error of the driver's own machine, such as a full disk."""

    error: OSError


class Fleet:
    """A fleet that is under way: a thread for each node, and the last event of each, which one thread changes."""

    def __init__(
        self,
        driver: Driver,
        info: FleetInfo,
        folder: Path,
        say: Callable[[str], None],
        order: Callable[[Node], NodeOrder],
    ) -> None:
        """Take up what an earlier driver has left in the folder."""
        self.driver, self.info, self.folder, self.say, self.order = driver, info, folder, say, order
        drop_unfinished(folder)
        self.events = read_events(folder)
        self.inbox: queue.SimpleQueue[NodeEvent | Crash] = queue.SimpleQueue()
        self.starts, self.blocks = Semaphore(STARTS_AT_ONCE), Counter[str]()
        self.threads: dict[str, Thread] = {}

    def attend(self, again: Collection[str] = (), list_s: float = LIST_S) -> Mapping[str, NodeEvent]:
        """Measure every node that has not ended yet, and those that join meanwhile; return the last event of each.

        `again` names nodes that have ended and are to be started once more. Nothing else is.
        """
        listed = said = -math.inf
        while True:
            if (now := now_ns() / 1e9) - listed >= list_s:
                self._list(again)
                listed = now
            if now - said >= SAY_S:
                self.say(progress_line(self.events, self.blocks))
                said = now
            # Before the inbox is looked at: what a thread tells before its end is in it.
            alive = any(thread.is_alive() for thread in self.threads.values())
            try:
                message = self.inbox.get(timeout=min(list_s, 1.0) if alive else 0.0)
            except queue.Empty:
                if not alive:
                    return self.events
            else:
                if isinstance(message, Crash):
                    raise disk_error(self.folder, message.error) from message.error
                self._take(message)

    def _take(self, event: NodeEvent) -> None:
        self.events[event.node] = event
        append_event(self.folder, event)
        if event.status != PENDING:
            self.say(f"{event.node}: {event.status}" + (f": {event.reason}" if event.reason else ""))

    def _list(self, again: Collection[str]) -> None:
        """Begin with the nodes that are listed and have not ended; note those that have left."""
        try:
            nodes = {node.name: node for node in self.driver.nodes()}
        # A hosts file may be read while it is being saved.
        except (NodeError, UserError) as error:
            if not self.events:
                raise UserError(f"--driver {self.info.driver}: no nodes can be listed ({error})") from error
            self.say(f"the nodes can't be listed: {error}")
            return
        for name, node in nodes.items():
            before = self.events.get(name)
            ended = before and before.status not in GOES_ON and name not in again
            if name not in self.threads and not ended:
                starts = before.starts if before else 0
                event = NodeEvent(name, node.address, PENDING, "", timestamp(), starts, note=node.note)
                self._take(event)
                self.threads[name] = Thread(target=attend_node, args=(self, node, event), daemon=True)
                self.threads[name].start()
        for name in self.events.keys() - nodes.keys() - self.threads.keys():
            if (event := self.events[name]).status in GOES_ON and event.status != LEFT:
                self._take(replace(event, status=LEFT, reason="the driver lists it no longer", at=timestamp()))


def progress_line(events: Mapping[str, NodeEvent], blocks: Mapping[str, int]) -> str:
    counts = Counter(event.status for event in events.values())
    parts = [f"{count} {status}" for status, count in counts.items()]
    done = [blocks.get(event.node, 0) for event in events.values() if event.status == MEASURING]
    range_ = f"; finished blocks: {min(done)} to {max(done)}" if done else ""
    return ", ".join(parts) + range_


def attend_node(fleet: Fleet, node: Node, event: NodeEvent) -> None:
    """Start a node's run, or find it under way, and copy its journal until it ends; the inbox gets what happens."""

    def tell(status: str, reason: str = "") -> None:
        fleet.inbox.put(replace(event, status=status, reason=reason, at=timestamp()))

    try:
        mirror, order = Mirror(fleet.folder / NODE_RUNS / node.name), fleet.order(node)
        try:
            with fleet.starts:
                if fleet.info.bundle:
                    fleet.driver.place(node, Path(fleet.info.bundle))
                started = fleet.driver.start(node, order)
            event = replace(event, starts=event.starts + started.begun, machine=started.machine)
            tell(MEASURING, f"{started.cpu}, {started.cores} cores, nice {started.nice}")
            ended = follow(fleet, node, order, mirror)
            tell(*outcome(ended, mirror.end()))
        finally:
            mirror.close()
    except NodeRefusedError as error:
        tell(REFUSED, str(error))
    except NodeLostError as error:
        tell(LOST, str(error))
    # With Slurm the driver itself reads the journal; RefusalError says that this is shorter than before.
    except (NodeDamagedError, RefusalError) as error:
        tell(DAMAGED, str(error))
    except StragglerError as error:
        tell(STRAGGLED, str(error))
    except OSError as error:
        fleet.inbox.put(Crash(error))


class StragglerError(Exception):
    """A node that answers, but whose run writes nothing."""


def follow(fleet: Fleet, node: Node, order: NodeOrder, mirror: Mirror) -> Ended:
    """Copy the journal of a node until its run ends; stop a run that writes nothing for too long."""
    heard = now_ns()
    for frame in fleet.driver.stream(node, order, mirror.size):
        if ended := mirror.feed(frame):
            return ended
        if frame.startswith(b"J"):
            heard, fleet.blocks[node.name] = now_ns(), mirror.blocks
        waits_s = order.wait_s if frame == b"H" + WAITING else 0
        if (silent_s := (now_ns() - heard) / 1e9) > fleet.info.patience_s + waits_s:
            try:
                fleet.driver.stop(node, order)
                what = "stopped"
            except NodeError as error:
                what = f"can't be stopped: {error}"
            raise StragglerError(f"no record for {silent_s:.0f} s, after {mirror.blocks} blocks; {what}")
    raise NodeLostError("the connection ended before the run did")


def outcome(ended: Ended, last: str | None) -> tuple[str, str]:
    """Return the status and the reason of a node whose command has ended; `last` is the end that its journal tells."""
    if last in MEASURED:
        return last, "a check failed; its report says which" if ended.status else ""
    if last == INTERRUPTED:
        return INTERRUPTED, ended.line
    if ended.status == USER_INPUT:
        return REFUSED, ended.line
    return CRASHED, ended.line or f"exit status {ended.status}"


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
