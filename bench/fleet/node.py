"""The program that a fleet's driver starts on a node: it checks the node, runs `bench run`, and streams its journal.

A request is one line of JSON on the standard input; the answer is one line of JSON, or frames. The run has a session of
its own and outlives the connection, so a driver that starts again finds it. Frames are lines: their first byte tells
what follows. R: the text of run.json as a JSON string. J: a line of the journal. H: a sign of life, and what the node
does. E: an Ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bench.codec import CodecError, decode, encode, read_json
from bench.fleet.driver import (
    CHUNK_BYTES,
    HEARTBEAT_S,
    Ended,
    NodeDamagedError,
    NodeOrder,
    NodeRefusedError,
    Started,
    Stopped,
)
from bench.journal import JOURNAL, RUN, write_atomically
from bench.machine.facts import cpu_info, instruction_sets
from bench.processes.lock import hold, is_free
from models.data import FOLDER_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_T = TypeVar("_T")

START, STREAM, STOP, ATTEND = "start", "stream", "stop", "attend"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MOST_REQUEST_BYTES = 1 << 20
# Of the folder of what belongs to the fleet.
STARTED_FILE, ENDED_FILE = "started.json", "ended.json"
REFUSAL, WAITING = "refused", b"waiting"
# The exit status of wrong input, and of a run that is refused.
USER_INPUT = 2
# Where an installed bundle has the data.
DATA_FOLDER = Path(__file__).parents[2] / ".offline" / "data" / "fashion-mnist"
BUNDLED = {FOLDER_VARIABLE: str(DATA_FOLDER)} if DATA_FOLDER.is_dir() else {}
# How long a stopped run may take to write its report.
STOP_S = 120.0


@dataclass(frozen=True)
class NodeRequest:
    """What to do with an order; `offset` is how much of the journal the driver has."""

    action: str
    order: NodeOrder
    offset: int = 0


def node_request(action: str, order: NodeOrder, offset: int = 0) -> bytes:
    return json.dumps(encode(NodeRequest(action, order, offset))).encode() + b"\n"


def answer_of(answer: bytes, kind: type[_T]) -> _T:
    """Return what a node has answered; raises NodeRefusedError if it refuses."""
    try:
        content = read_json(answer.decode())
        if isinstance(content, dict) and REFUSAL in content:
            raise NodeRefusedError(str(content[REFUSAL]))
        return decode(kind, content)
    except (CodecError, UnicodeDecodeError) as error:
        raise NodeDamagedError(f"its answer is no answer: {error}") from error


class RefusalError(Exception):
    """The reason why this node does not measure."""


def main() -> None:
    """Answer one request, from the standard input or from the file that is named."""
    try:
        with Path(sys.argv[1]).open(encoding="utf-8") if sys.argv[1:] else nullcontext(sys.stdin) as given:
            request = decode(NodeRequest, read_json(given.readline(MOST_REQUEST_BYTES)))
        respond(request, sys.stdout.buffer)
    except (CodecError, RefusalError) as error:
        sys.stdout.write(json.dumps({REFUSAL: str(error)}) + "\n")
    except BrokenPipeError:
        # The driver is gone. The run goes on.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def respond(request: NodeRequest, out: BinaryIO) -> None:
    order = request.order
    match request.action:
        case "start":
            out.write(json.dumps(encode(start_run(order))).encode() + b"\n")
        case "stream":
            for frame in frames(order, request.offset):
                out.write(frame + b"\n")
                out.flush()
        case "stop":
            stop(order)
            out.write(json.dumps(encode(Stopped())).encode() + b"\n")
        case "attend":
            attend(order)
        case _:
            raise RefusalError(f"unknown action {request.action!r}; allowed: {START}, {STREAM}, {STOP}, {ATTEND}")


def run_folder(order: NodeOrder) -> Path:
    return Path(order.results) / order.name


def control_folder(order: NodeOrder) -> Path:
    """Return the folder of what belongs to the fleet rather than to the run."""
    return Path(order.results) / ".fleet" / order.name


def start_run(order: NodeOrder) -> Started:
    """Start the run, unless it is under way or has ended; raises RefusalError if this node is not fit for it."""
    control = control_folder(order)
    begins = is_free(control / "attended") and not has_ended(order)
    if begins:
        require_fit(order)
        control.mkdir(parents=True, exist_ok=True)
        (control / ENDED_FILE).unlink(missing_ok=True)
        with (control / "errors.log").open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-I", "-m", "bench.fleet.node"],
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                cwd=control,
            )
            if process.stdin:
                with process.stdin as stream:
                    stream.write(node_request(ATTEND, order))
        while process.poll() is None and is_free(control / "attended"):
            time.sleep(0.02)
    return describe_node(begun=begins)


def describe_node(*, begun: bool) -> Started:
    boot = BOOT_ID.read_text(encoding="utf-8") if BOOT_ID.exists() else platform.node()
    return Started(
        begun=begun,
        machine=hashlib.sha256(f"cnn-stack-bench {boot}".encode()).hexdigest()[:12],
        cpu=cpu_info().get("model name", "unknown"),
        cores=len(os.sched_getaffinity(0)),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
    )


def require_fit(order: NodeOrder) -> None:
    """Raise RefusalError unless this node can measure the order; restore its priority."""
    if platform.machine() != "x86_64":
        raise RefusalError(f"the CPU is {platform.machine()}; needs x86_64")
    present = instruction_sets() or []
    if lacking := [name for name in order.instruction_sets if name not in present]:
        raise RefusalError(f"the CPU lacks {', '.join(lacking)}; it has {', '.join(present) or 'none of them'}")
    results = Path(order.results)
    try:
        results.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(results).free
    except OSError as error:
        raise RefusalError(f"{results}: can't be made ({error.strerror})") from error
    if free < order.free_bytes:
        raise RefusalError(f"{results}: {free / 1e9:.1f} GB free; needs {order.free_bytes / 1e9:.1f} GB")
    if order.whole and (cores := len(os.sched_getaffinity(0))) < (every := os.cpu_count() or 1):
        raise RefusalError(f"the run may use {cores} of {every} CPUs; it needs the whole node")
    if order.nice is not None:
        restore_priority(order.nice)


def restore_priority(nice: int) -> None:
    """Set the nice value that the node gives its own users, and read it back; raises RefusalError if it is higher."""
    with suppress(PermissionError):
        if os.getpriority(os.PRIO_PROCESS, 0) > nice:
            os.setpriority(os.PRIO_PROCESS, 0, nice)
    if (found := os.getpriority(os.PRIO_PROCESS, 0)) > nice:
        raise RefusalError(
            f"processes start at nice {found}, and it can't be undone without root; start the cluster on this node "
            f"with RAY_worker_niceness={nice}"
        )


def attend(order: NodeOrder) -> None:
    """Wait until no other measurement is under way, run to the end, and keep how it ended.

    The file `attended` stays locked as long as this process or the run is alive.
    """
    control = control_folder(order)
    control.mkdir(parents=True, exist_ok=True)
    try:
        require_fit(order)
    except RefusalError as error:
        write_atomically(control / ENDED_FILE, json.dumps(encode(Ended(USER_INPUT, str(error)))))
        return
    descriptor = os.open(control / "attended", os.O_RDWR | os.O_CREAT, 0o644)
    hold(descriptor)
    write_atomically(control / "pid", str(os.getpid()))
    write_atomically(control / STARTED_FILE, json.dumps(encode(describe_node(begun=True))))
    stopped = False

    def stop_run(*_: object) -> None:
        nonlocal stopped
        stopped = True
        if process is not None:
            process.terminate()

    process: subprocess.Popen[bytes] | None = None
    signal.signal(signal.SIGTERM, stop_run)
    deadline = time.monotonic() + order.wait_s
    while not is_free() and time.monotonic() < deadline and not stopped:
        time.sleep(order.look_s)
    if stopped:
        write_atomically(
            control / ENDED_FILE, json.dumps(encode(Ended(None, "stopped while it waited for another measurement")))
        )
        return
    command = [sys.executable, "-I", "-m", "bench", *(("fleet", "trial") if order.trial else run_command(order))]
    with (control / "output.log").open("ab") as output, (control / "errors.log").open("wb") as errors:
        process = subprocess.Popen(  # noqa: S603 - the command line of this harness
            command,
            env=BUNDLED | os.environ,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=errors,
            pass_fds=(descriptor,),
        )
        if stopped:
            process.terminate()
        # From here on it is the run that is asked to end: it may outlive this process, and holds the file as well.
        write_atomically(control / "pid", str(process.pid))
        with suppress(BrokenPipeError), process.stdin or nullcontext() as given:
            if given:
                given.write(order.trial.encode() + b"\n")
        status = process.wait()
    log = control / ("output.log" if order.trial and status == 0 else "errors.log")
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    write_atomically(control / ENDED_FILE, json.dumps(encode(Ended(status, said[-1] if said else ""))))


def run_command(order: NodeOrder) -> tuple[str, ...]:
    """Return the words that start a run, or let one that was killed go on."""
    folder = run_folder(order)
    unfinished = (folder / RUN).exists() and (folder / JOURNAL).exists()
    if not unfinished:
        # A run that was killed before it measured anything.
        shutil.rmtree(folder, ignore_errors=True)
    return "run", *order.arguments, "--results", order.results, "--resume" if unfinished else "--name", order.name


def has_ended(order: NodeOrder) -> bool:
    """Return whether the run has ended by itself; one that was interrupted, or never began, can go on."""
    if order.trial:
        return (control_folder(order) / ENDED_FILE).exists()
    try:
        with (run_folder(order) / JOURNAL).open("rb") as journal:
            journal.seek(max(0, journal.seek(0, os.SEEK_END) - CHUNK_BYTES))
            last = journal.read().splitlines()[-1:]
    except OSError:
        return False
    return bool(last) and last[0].startswith(b'{"kind":"end"') and b'"status":"interrupted"' not in last[0]


class Feed:
    """What a run writes, as frames, from an offset of its journal on."""

    def __init__(self, order: NodeOrder, offset: int) -> None:
        self._folder, self._offset, self._beaten = run_folder(order), offset, 0.0
        self.described = False

    def news(self) -> Iterator[bytes]:
        """Yield what has been written since the last call, and from time to time a sign of life."""
        if not self.described and (self._folder / RUN).exists():
            self.described = True
            yield b"R" + json.dumps((self._folder / RUN).read_text(encoding="utf-8")).encode()
        for line, size in journal_lines(self._folder / JOURNAL, self._offset):
            self._offset, self._beaten = self._offset + size, time.monotonic()
            yield b"J" + line
        if time.monotonic() - self._beaten >= HEARTBEAT_S:
            self._beaten = time.monotonic()
            yield b"H" + (b"measuring" if self.described else WAITING)


def frames(order: NodeOrder, offset: int) -> Iterator[bytes]:
    """Yield what the driver does not have yet, until the run has ended."""
    control, feed, begun = control_folder(order), Feed(order, offset), time.monotonic()
    while True:
        # Before the journal is read: what is written until the end is read after it.
        attended = not is_free(control / "attended")
        yield from feed.news()
        if not attended:
            try:
                ended = (control / ENDED_FILE).read_bytes()
            except OSError:
                ended = json.dumps(encode(Ended(None, "the run was killed"))).encode()
            yield b"E" + ended
            return
        # Short runs are followed more closely, in their first seconds, when nothing is timed yet.
        time.sleep(min(order.look_s, 0.05 + (time.monotonic() - begun) / 20))


def journal_lines(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """Yield the complete lines from an offset on, with the bytes that each takes."""
    with suppress(FileNotFoundError), path.open("rb") as journal:
        if journal.seek(0, os.SEEK_END) < offset:
            raise RefusalError(f"{path}: is shorter than what the driver has of it")
        journal.seek(offset)
        for line in journal:
            if line.endswith(b"\n"):
                yield line[:-1], len(line)


def stop(order: NodeOrder) -> None:
    """End the run early, with its report, and wait for that; raises RefusalError if it goes on."""
    control, deadline = control_folder(order), time.monotonic() + STOP_S
    if not is_free(control / "attended"):
        with suppress(OSError, ValueError):
            os.kill(int((control / "pid").read_text(encoding="utf-8")), signal.SIGTERM)
    while not is_free(control / "attended"):
        if time.monotonic() > deadline:
            raise RefusalError(f"the run goes on, {STOP_S:.0f} s after it was asked to end; see {control / 'pid'}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
