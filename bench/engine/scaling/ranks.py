"""Request something of all ranks of a group at once, and end the group with one reason when one of them fails."""

from __future__ import annotations

import select
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.clock import cpu_ns_of, now_ns
from bench.engine.workers import Exited, Unsupported, WorkerError, is_running
from models.timeouts import LONGER, timeout_factor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.engine.workers import WorkerGroup
    from bench.worker.messages import Request

R = TypeVar("R")

# A rank that uses less of a core than this share for so long, or replies so much later than another one, hangs.
STALL_S, IDLE_SHARE = 60.0, 0.01
# How often the CPU time of ranks that have not replied is read.
CHECK_S = 5.0
# When a rank fails, the others fail because of that. The one whose process has ended is the cause.
CAUSE_S = 3.0
STOPPED = ("T", "t")


def request_of_ranks(group: WorkerGroup, requests: Sequence[Request[R]], timeout_s: float) -> list[R]:
    """Send each rank its own request, and return the replies by rank.

    Ranks wait for each other. So when one of them fails, exits or hangs, all are killed. Raises WorkerError, which
    names that rank, or Unsupported.
    """
    try:
        for rank, request in enumerate(requests):
            try:
                group.workers[rank].send(request)
            except WorkerError as error:
                raise _cause(group, {rank: error}) from error
        return _replies(group, requests, timeout_s)
    except WorkerError:
        group.kill()
        raise


def _replies(group: WorkerGroup, requests: Sequence[Request[R]], timeout_s: float) -> list[R]:
    pending, replies, errors = dict(enumerate(group.workers)), dict[int, R](), dict[int, WorkerError]()
    ranks, poll = {worker.fileno(): rank for rank, worker in pending.items()}, select.poll()
    for descriptor in ranks:
        poll.register(descriptor, select.POLLIN)
    begin = changed = now_ns()
    watch = _Watch(group, begin)
    while pending:
        for descriptor, _ in poll.poll((CAUSE_S / 4 if errors else min(CHECK_S, STALL_S / 4)) * 1e3):
            poll.unregister(descriptor)
            worker = pending.pop(rank := ranks[descriptor])
            try:
                replies[rank] = worker.receive(requests[rank], timeout_s)
            except WorkerError as error:
                errors[rank] = error
            changed = now_ns()
        now = now_ns()
        if errors and (not pending or now - changed > CAUSE_S * 1e9):
            raise _cause(group, errors)
        if not errors and (late := watch.late(list(pending), changed if replies else None, now)):
            raise _cause(group, late)
        if pending and now - begin > (limit_s := timeout_s * timeout_factor()) * 1e9:
            rank, what = min(pending), type(requests[0]).__name__
            raise _cause(group, {rank: WorkerError(f"did not reply within {limit_s:g} s ({what}); {LONGER}")})
    return [replies[rank] for rank in range(len(requests))]


class _Watch:
    """Notices ranks that hang: when each of them last used its core."""

    def __init__(self, group: WorkerGroup, now: int) -> None:
        self._pids = [worker.pid for worker in group.workers]
        self._cpu_ns, self._active_ns = [cpu_ns_of(pid) for pid in self._pids], [now] * len(self._pids)

    def late(self, pending: Sequence[int], replied_ns: int | None, now: int) -> dict[int, WorkerError]:
        """Return the rank that hangs, with the reason; empty if none does.

        A rank that waits for another uses no core either: of several, one that is stopped is the cause. One that waits
        for a core does not hang. `replied_ns` is when the last rank has replied, None if none has.
        """
        limit_s = STALL_S * timeout_factor()
        if pending and replied_ns is not None and now - replied_ns > limit_s * 1e9:
            return {pending[0]: WorkerError(f"hangs: it has not replied {limit_s:g} s after another rank; {LONGER}")}
        idle = []
        for rank in pending:
            used_ns = cpu_ns_of(self._pids[rank])
            if used_ns - self._cpu_ns[rank] > IDLE_SHARE * (now - self._active_ns[rank]):
                self._cpu_ns[rank], self._active_ns[rank] = used_ns, now
            elif now - self._active_ns[rank] > limit_s * 1e9 and not is_running(self._pids[rank]):
                idle.append(rank)
        stopped = [rank for rank in idle if _state(self._pids[rank]) in STOPPED]
        what = "is stopped" if stopped else "hangs"
        error = WorkerError(f"{what}: it has used no core for {limit_s:g} s; {LONGER}")
        return dict.fromkeys((stopped or idle)[:1], error)


def _state(pid: int) -> str:
    with suppress(OSError):
        # The state follows the name, which is in brackets: proc_pid_stat(5).
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1].decode()
    return ""


def _cause(group: WorkerGroup, errors: Mapping[int, WorkerError]) -> WorkerError:
    """Return the error that caused the others, with its rank: that of a process that has ended, else the first."""
    unsupported = next((error for error in errors.values() if isinstance(error, Unsupported)), None)
    if unsupported:
        return unsupported
    rank, error = next((item for item in errors.items() if isinstance(item[1], Exited)), next(iter(errors.items())))
    count = len(group.workers)
    return WorkerError(f"rank {rank} of {count}: {error}" if count > 1 else str(error))
