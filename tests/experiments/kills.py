"""Kill runs at random moments and let them go on, to see that every slice counts once and nothing is left behind.

    python -m tests.experiments.kills [KILLS [SEED]]

Each run measures toy arms, in short slices on few images. Its process is killed with SIGKILL at a random moment, again
and again, until it gets to its end. A moment is a random size of the journal, and a random time after that, so that
other work on the machine changes nothing. After each kill, no process and no temporary file may be left, and the
journal must be readable. At the end the slices that count must be those of the schedule, each of them once, the
journal's links intact, and all of the report but its times that of a run that was never killed.
"""

from __future__ import annotations

import csv
import os
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import psutil

from bench.analysis.run import Run
from bench.journal import JOURNAL, broken_link, read_journal
from bench.records import End, Resume, Slice
from bench.suite.schedule import PRESETS, joint_rounds
from tests.command_line import HANG_S, SERVER, TOYS, call, environment_of
from tests.shortened import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.process import BaseProcess

    from bench.records import Record

# What a table has of an arm and a case, except for times.
Outcome: TypeAlias = "list[dict[str, str]]"

SUITE = """\
name = "toys"
summary = "two arms"
scenarios = ["latency"]
models = ["cnn-small"]
batch_sizes = [1, 4]
precisions = ["fp32"]
arms = ["oracle/numpy", "toy/good"]
baselines = ["oracle/numpy"]
primary = ["toy/good"]
"""
# With one thread, no pool of threads spins for a while after each slice.
MEASURED = ("run", "--suite", "./toys.toml", "--preset", "quick", "--data", "synthetic", "--threads", "1")
# What every run imports.
PRELOADED = ["tests.preloaded", "bench.engine.run", "bench.report.run_report"]
SAME = ("model", "scenario", "batch_size", "precision", "stack", "variant", "status", "reason", "blocks", "accuracy")
BLOCKS = 6
# By how much of a whole journal a process comes further at most, and how long it then goes on at most.
LARGEST_SHARE, LONGEST_S, LOOK_S = 0.2, 0.3, 0.005
# How long a killed process and its workers may take to be gone.
GONE_S = 60


def measure(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> None:
    """Do what `python -m bench` does, but shortened."""
    shorten()
    PRESETS["quick"] = replace(PRESETS["quick"], blocks=BLOCKS, ladder_blocks=BLOCKS, further_rounds=0)
    call(folder, arguments, environment, folder / "out", folder / "err")


def next_command(run: Path, records: Sequence[Record]) -> tuple[str, ...]:
    """Return the command that a user needs after a kill."""
    if records and isinstance(records[-1], End):
        return "report", f"results/{run.name}"
    return (*MEASURED, *(("--resume", run.name) if (run / JOURNAL).exists() else ("--seed", "1", "--name", run.name)))


def start(folder: Path, *arguments: str) -> BaseProcess:
    """Start a command, with its temporary files in a folder of its own."""
    (folder / "scratch").mkdir(parents=True, exist_ok=True)
    (folder / "toys.toml").write_text(SUITE)
    environment = environment_of(folder, arguments) | {"TMPDIR": str(folder / "scratch")}
    process = SERVER.Process(target=measure, args=(folder, arguments, environment))
    process.start()
    return process


def wait_until(process: BaseProcess, journal: Path, size: float, then_s: float) -> None:
    """Wait until a process has written this much, and some time after that, or until it ends."""
    while process.exitcode is None and (journal.stat().st_size if journal.exists() else 0) < size:
        time.sleep(LOOK_S)
    process.join(then_s)


def kill(process: BaseProcess) -> list[psutil.Process] | None:
    """Kill a process; return all that it had started, or None if it had ended already."""
    try:
        victim = psutil.Process(process.pid)
        # So that it starts no more while they are looked for.
        victim.suspend()
        children = victim.children(recursive=True)
        victim.kill()
    except psutil.NoSuchProcess:
        return None
    process.join(HANG_S)
    return children


def require_nothing_left(folder: Path, children: list[psutil.Process]) -> None:
    """Raise AssertionError if a killed run's processes or temporary files are still there."""
    _, left = psutil.wait_procs(children, timeout=GONE_S)
    alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"processes that outlive their run: {alive}"
    scratch = list((folder / "scratch").iterdir())
    assert not scratch, f"temporary files that outlive their run: {scratch}"
    # The next command that makes an entry of the cache removes what was killed while it was made.
    assert len(list((folder.parent / "cache").rglob(".partial-*"))) <= 1


def outcome(run: Path) -> Outcome:
    with (run / "arms.csv").open() as stream:
        return [{name: row[name] for name in SAME} for row in csv.DictReader(stream)]


def kill_one_run(folder: Path, most: int, rng: random.Random, whole_bytes: int, expected: Outcome) -> Counter[str]:
    """Measure a run that is killed up to `most` times; count the kills by the kind of the last record before them.

    Raises AssertionError if something is lost.
    """
    run, kills = folder / "results" / "r", Counter[str]()
    records: list[Record] = []
    while True:
        process = start(folder, *next_command(run, records))
        if kills.total() < most:
            before = (run / JOURNAL).stat().st_size if records else 0
            further, then_s = rng.uniform(0, LARGEST_SHARE * whole_bytes), rng.uniform(0, LONGEST_S)
            wait_until(process, run / JOURNAL, before + further, then_s)
            if process.exitcode is None and (children := kill(process)) is not None:
                require_nothing_left(folder, children)
                records = read_journal(run) if (run / JOURNAL).exists() else []
                kills[type(records[-1]).__name__ if records else "none"] += 1
                continue
        process.join(HANG_S)
        assert process.exitcode == 0, (folder / "err").read_text()
        break
    result = Run(run)
    counted = [(turn.block, turn.case, turn.round, turn.arm) for turn in result.of(Slice)]
    planned = [
        (block.number, turn.case, turn.number, arm)
        for block in result.info.schedule
        for joint in joint_rounds(block.rounds, result.cases)
        for arm, turn in product(joint[0].order, joint)
    ]
    assert counted == planned, "slices were lost, or counted twice"
    assert result.end is not None
    assert result.end.status == "complete"
    assert broken_link(run) is None
    assert len(result.of(Resume)) <= kills.total()
    assert outcome(run) == expected, "the report is not that of a run that was never killed"
    assert not [path for path in run.rglob("*") if "partial" in path.name]
    assert not list((folder / "scratch").iterdir())
    return kills


def main(wanted: int, seed: int) -> None:
    os.environ["BENCH_BACKENDS"] = str(TOYS)
    SERVER.set_forkserver_preload(PRELOADED)
    rng, kills, runs, begin = random.Random(seed), Counter[str](), 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        # Below a folder where the runs share their cache.
        whole = Path(name, "runs", "whole")
        process = start(whole, *next_command(whole / "results" / "r", ()))
        process.join(HANG_S)
        assert process.exitcode == 0, (whole / "err").read_text()
        expected, size = outcome(whole / "results" / "r"), (whole / "results" / "r" / JOURNAL).stat().st_size
        while kills.total() < wanted:
            folder = Path(name, "runs", f"run{runs}")
            kills += kill_one_run(folder, wanted - kills.total(), rng, size, expected)
            runs += 1
            last = ", ".join(f"{kind} {count}" for kind, count in kills.most_common())
            seconds = time.monotonic() - begin
            sys.stdout.write(f"{kills.total()} kills in {runs} runs, {seconds:.0f} s: nothing lost (after: {last})\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(given) for given in [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]]))
