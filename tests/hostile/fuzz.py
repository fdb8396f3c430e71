"""Feed damaged files to every parser of foreign input, in processes that are watched.

`python -m tests.hostile.fuzz --inputs 100000` is the long mode; tests/hostile/test_fuzz.py is a share of it. An input
fails if its parser raises anything but the error that becomes one line, if it uses CPU_S of CPU time, or more memory
than LIMIT_BYTES above its start, or if it touches a file outside of its folder, the network or another process.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import UserError
from tests.hostile.targets import TARGETS

if TYPE_CHECKING:
    from tests.hostile.targets import Target

CPU_S, WALL_S = 20, 300
LIMIT_BYTES = 1 << 30
# The command line shows the beginning of a long error. It can have as many characters as the file that it quotes.
LONGEST_ERROR = 1 << 20
# The status of a process in which the fuzzer itself fails.
OWN_FAULT = 77
# The share of all inputs that each parser gets, relative to the others; the rest have 1.
SHARES = {
    "suite": 4.0, "recipe": 4.0, "network": 3.5, "safetensors": 3.0, "IDX": 2.5, "journal": 2.0, "run.json": 2.0,
    "safetensors of others": 2.0, "HDF5": 1.2, "report": 0.1,
}  # fmt: skip
# Files that any Python process may read.
READABLE = ("/usr/", "/lib", "/etc/", "/proc/", "/sys/", "/dev/null", "/dev/urandom", sys.prefix, sys.base_prefix)
HERE = Path(__file__).parents[2]
WATCHED = {
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.kill", "os.putenv", "os.chmod",
    "subprocess.Popen", "pty.spawn", "ctypes.dlopen", "shutil.rmtree", "os.symlink", "os.link", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "socket.sendto", "pickle.find_class", "urllib.Request", "webbrowser.open",
}  # fmt: skip
CHANGES = {"os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile", "shutil.move"}
IN_OPEN_OR_CHANGED = 0x20 | 0x2 | 0x100 | 0x200 | 0x80


@dataclass
class Outcome:
    """How many inputs of a parser were read, refused or contained in its worker; the failures, with their inputs."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0


class Watch:
    """Note what happens outside of a folder, and forbid it: by Python's audit events, and by the kernel's for files."""

    def __init__(self, folder: Path, outside: Path) -> None:
        self._folder, self.active, self.violations = str(folder), False, list[str]()
        libc = ctypes.CDLL(None, use_errno=True)
        self._events = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        libc.inotify_add_watch(self._events, str(outside).encode(), IN_OPEN_OR_CHANGED)
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if event == "open":
            path, mode, flags = (*arguments, None, None)[:3]
            if isinstance(path, int):
                return
            name = os.path.realpath(os.fsdecode(path))
            writes = any(letter in str(mode or "") for letter in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR)
            may_read = name.startswith((*READABLE, str(HERE))) and not writes
            allowed = name.startswith((self._folder, "/tmp/bench-", "/dev/null")) or may_read  # noqa: S108 - the prefix of the product
        elif event in CHANGES:
            names = [
                os.path.realpath(os.fsdecode(name)) for name in arguments if isinstance(name, str | bytes | os.PathLike)
            ]
            allowed = all(name.startswith((self._folder, "/tmp/bench-")) for name in names)  # noqa: S108 - as above
        else:
            allowed = event not in WATCHED
        if not allowed:
            self.violations.append(f"{event} {arguments!r}"[:300])
            raise PermissionError(event)

    def outside_events(self) -> bool:
        try:
            return bool(os.read(self._events, 4096))
        except BlockingIOError:
            return False


def fuzz(name: str, inputs: int, seed: int, folder: Path) -> Outcome:
    """Feed so many inputs to a parser; a process that dies is replaced, and its last input counts."""
    target, outcome, begin = TARGETS[name], Outcome(), time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    while first < inputs:
        log, progress = folder / "log.jsonl", folder / "progress"
        log.write_text("")
        progress.write_text(str(first))
        pid = os.fork()
        if pid == 0:
            _child(target, range(first, inputs), seed, folder)
        _, status = os.waitpid(pid, 0)
        for line in log.read_text().splitlines():
            kind, text, peak = json.loads(line)
            outcome.counts[kind] += 1
            outcome.peak_bytes = max(outcome.peak_bytes, peak)
            if kind == "failed":
                outcome.failures.append(text)
        last = int(progress.read_text())
        if os.WIFEXITED(status) and os.waitstatus_to_exitcode(status) == OWN_FAULT:
            raise RuntimeError(f"the fuzzer of {name} fails; its message is above")
        if status == 0:
            first = inputs
        else:
            died = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status >> 8}"
            kind = "contained" if target.contained else "failed"
            outcome.counts[kind] += 1
            if kind == "failed":
                outcome.failures.append(f"input {last} (seed {seed}): {died}")
            first = last + 1
    outcome.seconds = time.monotonic() - begin
    return outcome


def _child(target: Target, numbers: range, seed: int, folder: Path) -> None:
    """Read inputs until all are done, and leave the process; what is left of an input that kills it is its number."""
    status = OWN_FAULT
    try:
        _read_all(target, numbers, seed, folder)
        status = 0
    except BaseException:  # noqa: BLE001 - a fault of the fuzzer itself must not look like a pass
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _read_all(target: Target, numbers: range, seed: int, folder: Path) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # A crash is an outcome, whose trace nobody needs.
    faulthandler.disable()
    warnings.simplefilter("ignore")
    place, outside = folder / "place", folder / "outside"
    for path in (place, outside):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    (outside / "canary").write_text("secret")
    files = target.make(place)
    contents = [path.read_bytes() for path in files]
    # All modules that a parser needs are imported, and all that it keeps is there.
    for path in files:
        with suppress(UserError):
            target.read(path)
    target_files = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    watch, held = Watch(place, outside), resident_bytes("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (held + LIMIT_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    started = resident_bytes("VmRSS")
    with (folder / "log.jsonl").open("a") as log:
        for number in numbers:
            rng = random.Random(f"{seed}-{number}")
            index = rng.randrange(len(files))
            mutate = rng.choice(target.mutations)
            try:
                damaged = mutate(contents[index], rng, contents)
            except Exception:  # noqa: BLE001 - a structure that can't be built is one that nobody can send
                damaged = rng.randbytes(100)
            files[index].write_bytes(damaged)
            (folder / "progress").write_text(str(number))
            kind, text = _outcome(target, files[index], watch)
            if kind == "failed":
                text = f"input {number} (seed {seed}): {text}"
                (folder / f"failed-{number}-{files[index].name}").write_bytes(damaged)
            for path, content in target_files.items():
                path.write_bytes(content)
            log.write(json.dumps([kind, text, max(0, resident_bytes("VmHWM") - started)]) + "\n")
            log.flush()


def _outcome(target: Target, path: Path, watch: Watch) -> tuple[str, str]:
    """Return "read", "refused", "contained" or "failed", and the reason."""
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    watch.violations.clear()
    watch.active, kind, text = True, "read", ""
    try:
        target.read(path)
    except UserError as error:
        kind, text = "refused", str(error)
        if not text or len(text) > LONGEST_ERROR:
            kind, text = "failed", f"an error of {len(text)} characters"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        kind, text = "failed", "".join(traceback.format_exception(error)[-3:])
        if target.contained and not isinstance(error, PermissionError):
            kind = "contained"
        gc.collect()
    finally:
        watch.active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if watch.violations or watch.outside_events():
        return "failed", f"touched what it must not: {watch.violations or 'a file outside'}"
    return kind, text


def resident_bytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(f"{name}:")), 0)


def main() -> int:
    """Fuzz the parsers that are named, or all; print a line for each, and return 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--inputs", type=int, default=100_000, help="of all parsers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that failed")
    options = parser.parse_args()
    names, failed, every = options.parsers or list(TARGETS), 0, 0
    weight = sum(SHARES.get(name, 1.0) for name in names)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        for name in names:
            inputs = round(options.inputs * SHARES.get(name, 1.0) / weight)
            outcome = fuzz(name, inputs, options.seed, (options.keep or Path(scratch)) / name.replace(" ", "-"))
            counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(outcome.counts.items()))
            peak = f"{outcome.peak_bytes / 1e6:.0f} MB"
            print(f"{name}: {inputs:,} inputs in {outcome.seconds:.0f} s: {counts}; peak {peak}", flush=True)  # noqa: T201
            for failure in outcome.failures[:20]:
                print(f"  {failure}", flush=True)  # noqa: T201
            failed, every = failed + len(outcome.failures), every + inputs
    print(f"{every:,} inputs, {failed} failed")  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
