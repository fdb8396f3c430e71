"""The processes that an arm is measured with: one, or for throughput one per core that all work at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.engine.workers import Worker

BEGIN_TOGETHER_NS = 20_000_000  # from a request to a team until its members begin: all have got it by then


class WorkerGroup:
    """Live workers that get the same requests; most teams have one member."""

    def __init__(self, starts: Sequence[Callable[[], Worker]]) -> None:
        """Start the members; raises WorkerError, with none left behind."""
        self.members: list[Worker] = []
        try:
            for start in starts:
                self.members.append(start())
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Return the members' process ids."""
        return [worker.pid for worker in self.members]

    def wait_until_ready(self) -> Self:
        """Wait until every member is there; raises WorkerError."""
        for worker in self.members:
            worker.wait_until_ready()
        return self

    def request(self, do: str, timeout_s: float, **arguments: Any) -> list[dict[str, Any]]:
        """Send the same request to all, then receive all answers; raises WorkerError or Unsupported."""
        return self.request_each(do, timeout_s, [arguments] * len(self.members))

    def request_each(self, do: str, timeout_s: float, arguments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send each member its own request, then receive all answers; raises WorkerError or Unsupported."""
        for worker, each in zip(self.members, arguments, strict=True):
            worker.send(do, **each)
        return [worker.receive(timeout_s) for worker in self.members]

    def kill(self) -> None:
        """Kill the members; whoever waits for their answers, in another thread, gets a WorkerError."""
        for worker in self.members:
            worker.kill()

    def stop(self) -> None:
        """Kill the members and all that they started, and reap them."""
        for worker in self.members:
            worker.stop()
