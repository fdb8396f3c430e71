"""Spread the trials of a search over the nodes of a fleet: one trial at a time on each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import TYPE_CHECKING

from bench.codec import CodecError, decode, encode, read_json
from bench.fleet.campaign import STARTS_AT_ONCE
from bench.fleet.driver import Ended, NodeDamagedError, NodeError, NodeLostError, NodeRefusedError
from bench.training.history import JobInfo
from bench.training.tune import NODE, TrialResult
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from optuna.trial import FrozenTrial

    from bench.fleet.driver import Driver, Node, NodeOrder
    from bench.training.tune import TrialSearch


@dataclass(frozen=True)
class TrialOrder:
    """What a node is to train: a job with a trial's settings, and what `--data` is there. 0 threads are all of it."""

    job: JobInfo
    data: str


class TrialNodes:
    """The nodes that run trials. `order` is what the fleet orders from a node; a trial takes the place of its run."""

    def __init__(self, driver: Driver, bundle: Path | None, data: str, order: Callable[[Node], NodeOrder]) -> None:
        """List the nodes; raises UserError if there is none."""
        self._driver, self._bundle, self._data, self._order = driver, bundle, data, order
        try:
            self._free = {node.name: node for node in driver.nodes()}
        except NodeError as error:
            raise UserError(f"no nodes can be listed ({error})") from error
        self._starts = Semaphore(STARTS_AT_ONCE)
        self._inbox: SimpleQueue[tuple[Node, FrozenTrial, TrialResult | NodeError]] = SimpleQueue()

    def run_trials(self, search: TrialSearch) -> None:
        """Run the trials that are left, and take up those that an earlier driver has begun.

        A node that fails gets no further trial, and another one a new trial; raises UserError if no node is left.
        """
        busy = 0
        for trial in search.running():
            if node := self._free.pop(trial.user_attrs[NODE], None):
                self._begin(search, node, trial)
                busy += 1
            else:
                search.tell(trial, TrialResult(None, "the driver lists its node no longer"), lost=True)
        while busy or search.left:
            while search.left and self._free:
                node = self._free.pop(next(iter(self._free)))
                self._begin(search, node, search.ask(node.name))
                busy += 1
            if not busy:
                raise UserError(
                    f"{search.folder}: no node can go on with the search; {search.left} trials are left; trials.csv "
                    "has the reasons; once they are mended, the same command goes on"
                )
            node, trial, result = self._inbox.get()
            busy -= 1
            if isinstance(result, NodeError):
                search.tell(trial, TrialResult(None, str(result)), lost=True)
            else:
                search.tell(trial, result)
                self._free[node.name] = node

    def _begin(self, search: TrialSearch, node: Node, trial: FrozenTrial) -> None:
        text = json.dumps(encode(TrialOrder(search.job_of(trial).info, self._data)))
        order = replace(self._order(node), name=f"trial.{search.token}.{trial.number + 1}", arguments=(), trial=text)

        def run() -> None:
            result: TrialResult | NodeError
            try:
                with self._starts:
                    if self._bundle:
                        self._driver.place(node, self._bundle)
                    self._driver.start(node, order)
                result = self._result(node, order)
            except NodeError as error:
                result = error
            # An error of this machine, such as a bundle that is gone.
            except OSError as error:
                result = NodeRefusedError(str(error))
            self._inbox.put((node, trial, result))

        Thread(target=run, daemon=True).start()

    def _result(self, node: Node, order: NodeOrder) -> TrialResult:
        """Wait for the end of a trial; return its result."""
        for frame in self._driver.stream(node, order, 0):
            if not frame.startswith(b"E"):
                continue
            try:
                ended = decode(Ended, read_json(frame[1:].decode()))
                if ended.status != 0:
                    raise NodeRefusedError(ended.line or f"exit status {ended.status}")
                return decode(TrialResult, read_json(ended.line))
            except (CodecError, UnicodeDecodeError) as error:
                raise NodeDamagedError(f"its result is none: {error}") from error
        raise NodeLostError("the connection ended before the trial did")
