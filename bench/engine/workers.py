"""Start worker processes, talk to them, time them out, and leave none behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from bench.clock import now_ns
from bench.machine.facts import raise_priority

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

START_TIMEOUT_S, EXIT_TIMEOUT_S = 120, 5
LOG_TAIL_BYTES = 4096
# What a worker inherits; everything else that it sees is set explicitly and recorded.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "USER", "BENCH_BACKENDS", "LD_LIBRARY_PATH")


class WorkerError(Exception):
    """A worker died, hung, or answered with anything but what was asked; the message is the reason."""


class Unsupported(WorkerError):  # noqa: N818 - it is an outcome, not a fault
    """The stack can't do what was asked."""


class Worker:
    """One live process in a stack's environment."""

    def __init__(
        self, python: Path, settings: Mapping[str, str], log: Path, cwd: Path, *, urgent: bool = False
    ) -> None:
        """Start the process; it becomes the leader of its own group, so that Ctrl-C reaches the orchestrator alone.

        `python` must not be resolved: the environment is found through the link. An `urgent` one has priority over the
        other work of the machine, where that is allowed.
        """
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(settings)
        environment["TMPDIR"] = str(cwd)  # a worker is killed, and what it leaves goes with its folder
        self._log, self._buffer = log, b""
        with log.open("ab") as stream:
            incoming, self._requests = os.pipe()
            self._answers, outgoing = os.pipe()
            self._pipes = [self._requests, self._answers]
            try:
                self._process = subprocess.Popen(
                    [python, "-P", "-u", "-m", "bench.worker", str(incoming), str(outgoing)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                    cwd=cwd,
                    pass_fds=(incoming, outgoing),
                    start_new_session=True,
                )
            except OSError as error:
                self._close_pipes()
                raise WorkerError(f"{python} can't be started ({error.strerror})") from error
            finally:
                os.close(incoming)
                os.close(outgoing)
        self.pid = self._process.pid
        if urgent:
            raise_priority(self.pid)  # before it has threads: they inherit it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> Self:
        """Wait for the first line; raises WorkerError."""
        if self._receive(START_TIMEOUT_S).get("ready") != self.pid:
            raise WorkerError("did not announce itself")
        return self

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request without waiting; raises WorkerError when the worker is gone."""
        line = json.dumps({"do": do, **arguments}) + "\n"
        try:
            os.write(self._requests, line.encode())
        except BrokenPipeError as error:
            raise WorkerError(self._epitaph()) from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """Return the answer to the request that was sent; raises WorkerError or Unsupported."""
        answer = self._receive(timeout_s)
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def request(self, do: str, timeout_s: float, **arguments: Any) -> dict[str, Any]:
        """Send and receive."""
        self.send(do, **arguments)
        return self.receive(timeout_s)

    def kill(self) -> None:
        """Kill the process and all that it started; whoever waits for its answer gets a WorkerError."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Kill the process and all that it started, and reap it."""
        self.kill()
        self._process.wait()
        self._close_pipes()

    def _close_pipes(self) -> None:
        while self._pipes:
            os.close(self._pipes.pop())

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        line = self._read_line(timeout_s)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise WorkerError(f"sent what is no message: {line[:60]!r}")
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        """Sleep in poll until a line is there, so that waiting burns nothing."""
        deadline = now_ns() + int(timeout_s * 1e9)
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while b"\n" not in self._buffer:
            if not poll.poll(max(0, deadline - now_ns()) / 1e6):
                raise WorkerError(f"gave no answer within {timeout_s:g} s")
            chunk = os.read(self._answers, 1 << 20)
            if not chunk:
                raise WorkerError(self._epitaph())
            self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def _epitaph(self) -> str:
        try:
            code = self._process.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its pipe without an answer"
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        return f"died {how}; its last words: {self._last_words()}"

    def _last_words(self) -> str:
        with self._log.open("rb") as stream:
            stream.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
        return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "none")
