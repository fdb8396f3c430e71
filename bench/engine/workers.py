"""Start worker processes, send them requests, enforce timeouts, and leave no process behind."""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from bench.clock import cpu_ns_of, now_ns, pause
from bench.codec import CodecError, decode
from bench.machine.resources import raise_priority
from bench.suite.user_variables import INHERITED
from bench.worker.messages import Request, request_line
from models.timeouts import LONGER, timeout_factor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

R = TypeVar("R")

START_TIMEOUT_S, EXIT_TIMEOUT_S = 120, 5
# How often a worker that does not reply is looked at: what it has started may keep its pipe open after its end.
LOOK_MS, EXIT_STEP_NS = 1000, 10_000_000
LOG_TAIL_BYTES = 4096
# A reply holds at most the samples of a slice; a file of a worker, its log included, at most a model.
MOST_REPLY_BYTES, MOST_FILE_BYTES = 1 << 26, 1 << 32
# A log that is longer is cut at the end of its worker.
MOST_LOG_BYTES = 1 << 26
# With less free space, a worker that failed may have failed because of that.
FULL_BYTES = 1 << 20
# From the request to a group until its workers start to time: long enough for all of them to have received it.
START_TOGETHER_NS = 20_000_000
SETTLE_STEP_NS, SETTLE_LIMIT_NS, SETTLED_SHARE = 1_000_000, 500_000_000, 0.05


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        # Real-time signals have no names of their own.
        return f"signal {number}"


class WorkerError(Exception):
    """A worker exited, hung, failed, or sent an invalid reply; the message is the reason."""


class Unsupported(WorkerError):  # noqa: N818 - it is an outcome, not a fault
    """The stack does not support the request."""


class Exited(WorkerError):  # noqa: N818 - it is an outcome of a process, and the reason of other faults
    """The process has ended."""


class Worker:
    """A process in a stack's environment."""

    def __init__(
        self,
        python: Path,
        variables: Mapping[str, str],
        log: Path,
        cwd: Path,
        *,
        urgent: bool = False,
        place: Sequence[str] = (),
    ) -> None:
        """Start the process. An `urgent` one runs at the highest priority that is allowed.

        `python` must not be resolved: the interpreter finds its virtualenv through the link. A `place` is a command
        that replaces itself by the one that follows it, such as `ip netns exec NAME`.
        """
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(variables)
        # A worker is killed; its temporary files go when this folder is removed.
        environment["TMPDIR"] = str(cwd)
        # Without the user's keras.json, which can change types and the order of channels.
        environment["KERAS_HOME"] = str(cwd / "keras")
        # PyTorch asks for the user's name when it is imported to compile, but a container's user may have none.
        environment.setdefault("USER", str(os.getuid()))
        self._log, self._folder, self._buffer = log, cwd, bytearray()
        with log.open("ab") as stream:
            self._log_start = stream.tell()
            incoming, self._requests = os.pipe()
            self._replies, outgoing = os.pipe()
            self._pipes = [self._requests, self._replies]
            try:
                self._process = subprocess.Popen(
                    [*place, python, "-P", "-u", "-m", "bench.worker", str(incoming), str(outgoing)],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    env=environment,
                    cwd=cwd,
                    pass_fds=(incoming, outgoing),
                    # The worker leads a process group of its own, so that Ctrl-C interrupts the orchestrator only.
                    start_new_session=True,
                )
            except OSError as error:
                self._close_pipes()
                raise WorkerError(f"{place[0] if place else python} can't be started ({error.strerror})") from error
            finally:
                os.close(incoming)
                os.close(outgoing)
        self.pid = self._process.pid
        with suppress(ProcessLookupError):
            # What prints without end must not fill the disk. Python gets an OSError instead of a signal.
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (MOST_FILE_BYTES, MOST_FILE_BYTES))
        if urgent:
            # Raised before the process has threads, as they inherit it.
            raise_priority(self.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_until_ready(self) -> Self:
        """Wait for the worker's first line; raises WorkerError."""
        if self._receive(START_TIMEOUT_S, "start").get("ready") != self.pid:
            raise WorkerError("did not announce itself")
        return self

    def send(self, request: Request[Any]) -> None:
        """Send a request without waiting for the reply; raises WorkerError when the worker has exited."""
        try:
            os.write(self._requests, request_line(request).encode())
        except BrokenPipeError as error:
            raise Exited(self._exit_reason()) from error

    def receive(self, request: Request[R], timeout_s: float) -> R:
        """Return the reply to a request that was sent; raises WorkerError or Unsupported."""
        content = self._receive(timeout_s, type(request).__name__)
        if "unsupported" in content:
            raise Unsupported(content["unsupported"])
        if "error" in content:
            raise WorkerError(self._with_remedy(content["error"]))
        try:
            return decode(request.reply_type(), content)
        except CodecError as error:
            raise WorkerError(f"sent an invalid reply: {error}") from error

    def request(self, request: Request[R], timeout_s: float) -> R:
        """Send a request and return the reply; raises WorkerError or Unsupported."""
        self.send(request)
        return self.receive(request, timeout_s)

    def fileno(self) -> int:
        """Return the file descriptor on which replies arrive."""
        return self._replies

    def kill(self) -> None:
        """Kill the process and all that it started; a thread that waits for its reply gets a WorkerError."""
        # Only `stop` reaps the process. Until then no other group can have its number.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Kill the process and all that it started, and reap it."""
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            # One that waits for a broken device can't be killed. With a factor below 1, others would not be reaped.
            self._process.wait(EXIT_TIMEOUT_S * max(1, timeout_factor()))
        self._close_pipes()
        with suppress(OSError):
            if self._log_bytes() > MOST_LOG_BYTES:
                os.truncate(self._log, self._log_start + MOST_LOG_BYTES)

    def _log_bytes(self) -> int:
        return self._log.stat().st_size - self._log_start

    def _close_pipes(self) -> None:
        while self._pipes:
            os.close(self._pipes.pop())

    def _receive(self, timeout_s: float, what: str) -> dict[str, Any]:
        line = self._read_line(timeout_s * timeout_factor(), what)
        try:
            content = json.loads(line)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise WorkerError(f"sent an invalid reply: {line[:60]!r}")
        return content

    def _read_line(self, timeout_s: float, what: str) -> bytes:
        deadline = now_ns() + int(timeout_s * 1e9)
        # Sleeping in poll, the orchestrator uses no CPU while a worker is measured.
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        end = self._buffer.find(b"\n")
        while end < 0:
            left_ms = max(0, deadline - now_ns()) / 1e6
            if not poll.poll(min(left_ms, LOOK_MS)):
                if self._end():
                    raise Exited(self._exit_reason())
                if self._log_bytes() > MOST_LOG_BYTES:
                    raise WorkerError(f"printed more than {MOST_LOG_BYTES:,} bytes without a reply ({what})")
                if left_ms > LOOK_MS:
                    continue
                raise WorkerError(f"did not reply within {timeout_s:g} s ({what}); {LONGER}")
            chunk = os.read(self._replies, 1 << 20)
            if not chunk:
                raise Exited(self._exit_reason())
            end = -1 if (found := chunk.find(b"\n")) < 0 else len(self._buffer) + found
            self._buffer += chunk
            if len(self._buffer) > MOST_REPLY_BYTES:
                raise WorkerError(f"sent more than {MOST_REPLY_BYTES:,} bytes without an end of line")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _end(self) -> os.waitid_result | None:
        """Return how the process has ended, which it stays to be reaped for, or None."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def _exit_reason(self) -> str:
        deadline = now_ns() + EXIT_TIMEOUT_S * 1_000_000_000
        while (end := self._end()) is None:
            if now_ns() > deadline:
                return "closed its pipe without a reply"
            pause(EXIT_STEP_NS)
        with self._log.open("rb") as stream:
            stream.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            lines = stream.read().decode(errors="replace").split("\n")
        last = next((line.strip()[:200] for line in reversed(lines) if line.strip()), "none")
        exited = end.si_code == os.CLD_EXITED
        how = f"exited with status {end.si_status}" if exited else f"was killed by {signal_name(end.si_status)}"
        return self._with_remedy(f"{how}; last line of its log: {last}")

    def _with_remedy(self, reason: str) -> str:
        """Add to a reason that the folder for temporary files is full, which the worker's own words may not say."""
        with suppress(OSError):
            if shutil.disk_usage(self._folder).free < FULL_BYTES:
                return f"{reason}; {self._folder} is full: free space there, or set TMPDIR to another folder"
        return reason


class WorkerGroup:
    """The workers of one arm, which receive the same requests: one, or for throughput one per core.

    A `driver` is a process beside them that hands them queries.
    """

    def __init__(
        self, starts: Sequence[Callable[[], Worker]], start_driver: Callable[[], Worker] | None = None
    ) -> None:
        """Start the workers; raises WorkerError if one can't be started, after stopping the others."""
        self.workers: list[Worker] = []
        self.driver: Worker | None = None
        try:
            for start in starts:
                self.workers.append(start())
            if start_driver:
                self.driver = start_driver()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers]

    @property
    def processes(self) -> list[Worker]:
        return [*self.workers, self.driver] if self.driver else self.workers

    def wait_until_ready(self) -> Self:
        for worker in self.processes:
            worker.wait_until_ready()
        return self

    def request(self, request: Request[R], timeout_s: float) -> list[R]:
        """Send the same request to all workers, then receive all replies; raises WorkerError or Unsupported."""
        return self.request_each([request] * len(self.workers), timeout_s)

    def request_each(self, requests: Sequence[Request[R]], timeout_s: float) -> list[R]:
        """Send each worker its own request, then receive all replies; raises WorkerError or Unsupported."""
        for worker, request in zip(self.workers, requests, strict=True):
            worker.send(request)
        return [worker.receive(request, timeout_s) for worker, request in zip(self.workers, requests, strict=True)]

    def kill(self) -> None:
        for worker in self.processes:
            worker.kill()

    def stop(self) -> None:
        for worker in self.processes:
            worker.stop()


@contextmanager
def threads_for(groups: Mapping[Any, WorkerGroup], count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield threads in which to wait for groups; an interrupt kills the groups, which ends the threads."""
    with ThreadPoolExecutor(count) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for group in groups.values():
                group.kill()
            raise


def wait_until_idle(pids: Sequence[int], recent: Sequence[int]) -> None:
    """Wait until no thread of the `recent` processes runs, and none of all these has used CPU time for a step.

    The threads of an arm spin for a while after its turn, before they sleep. The kernel adds the time of a running
    thread to its process's clock only at timer ticks, 1 to 10 ms apart, so the clocks alone show only threads that have
    slept.
    """
    deadline, since, before = now_ns() + SETTLE_LIMIT_NS, now_ns(), cpu_ns_of_all(pids)
    while now_ns() < deadline:
        pause(SETTLE_STEP_NS)
        running, now, after = any(map(is_running, recent)), now_ns(), cpu_ns_of_all(pids)
        if not running and after - before < SETTLED_SHARE * (now - since):
            return
        since, before = now, after


def is_running(pid: int) -> bool:
    """Return whether a thread of a process runs, or waits for a core."""
    # Threads, and processes, may end meanwhile.
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                # The state follows the name, which is in brackets and may contain any character: proc_pid_stat(5).
                if (thread / "stat").read_bytes().rpartition(b") ")[2].startswith(b"R"):
                    return True
    return False


def cpu_ns_of_all(pids: Sequence[int]) -> int:
    return sum(map(cpu_ns_of, pids))
