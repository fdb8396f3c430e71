"""Kill runs at random moments and let them go on, to see that every slice counts once and nothing is left behind.

    python -m tests.experiments.kills [KILLS [SEED]]

Each run measures toy arms. Its process is killed with SIGKILL after a random time, again and again, until it gets to
its end. After each kill, no process and no temporary file may be left, and the journal must be readable. At the end the
slices that count must be those of the schedule, each of them once, the journal's links intact, and all of the report
but its times that of a run that was never killed.
"""

from __future__ import annotations

import csv
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

import psutil

from bench.analysis.run import Run
from bench.journal import JOURNAL, broken_link, read_journal
from bench.records import Resume, Slice
from tests.command_line import environment_of

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
SAME = ("model", "scenario", "batch_size", "precision", "stack", "variant", "status", "reason", "blocks", "accuracy")
# The longest time until a process is killed, and how long a killed process and its workers may take to be gone.
LONGEST_S, GONE_S = 12.0, 60
KILLS_OF_A_RUN = 25


def command_of(folder: Path, preset: str, *name: str) -> list[str]:
    (folder / "toys.toml").write_text(SUITE)
    options = ["--suite", "./toys.toml", "--preset", preset, "--data", "synthetic", "--seed", "1"]
    if name[0] == "--resume":
        options = options[:-2]
    return [sys.executable, "-m", "bench", "run", *options, *name]


def require_nothing_left(scratch: Path, children: list[psutil.Process], cache: Path) -> None:
    """Raise AssertionError if a killed run's processes or temporary files are still there."""
    _, left = psutil.wait_procs(children, timeout=GONE_S)
    alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"processes that outlive their run: {alive}"
    assert not list(scratch.iterdir()), f"temporary files that outlive their run: {list(scratch.iterdir())}"
    # The next command that makes an entry of the cache removes what was killed while it was made.
    assert len(list(cache.rglob(".partial-*"))) <= 1


def outcome(run: Path) -> Outcome:
    with (run / "arms.csv").open() as stream:
        return [{name: row[name] for name in SAME} for row in csv.DictReader(stream)]


def uninterrupted(folder: Path, preset: str) -> Outcome:
    """Measure a run that is not killed; return what all others must show."""
    command = command_of(folder, preset, "--name", "whole")
    subprocess.run(command, cwd=folder, env=environment_of(folder, command), capture_output=True, check=True)
    return outcome(folder / "results" / "whole")


def kill_one_run(folder: Path, most: int, rng: random.Random, expected: Outcome, preset: str = "quick") -> int:
    """Measure a run that is killed up to `most` times; return how often. Raises AssertionError if something is lost."""
    scratch, run, kills = folder / "scratch", folder / "results" / "r", 0
    scratch.mkdir()
    while True:
        name = ["--resume", "r"] if (run / JOURNAL).exists() else ["--name", "r"]
        command = command_of(folder, preset, *name)
        environment = environment_of(folder, command) | {"TMPDIR": str(scratch)}
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=rng.uniform(0, LONGEST_S) if kills < most else None)
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.communicate()
            kills += 1
            require_nothing_left(scratch, children, Path(environment["XDG_CACHE_HOME"]))
            if (run / JOURNAL).exists():
                read_journal(run)
            continue
        assert process.returncode == 0, errors
        break
    result = Run(run)
    counted = [(turn.block, turn.case, turn.round, turn.arm) for turn in result.of(Slice)]
    planned = [
        (block.number, turn.case, turn.number, arm)
        for block in result.info.schedule
        for turn in block.rounds
        for arm in turn.order
    ]
    assert counted == planned, "slices were lost, or counted twice"
    assert result.end is not None
    assert result.end.status == "complete"
    assert broken_link(run) is None
    assert len(result.of(Resume)) <= kills
    assert outcome(run) == expected, "the report is not that of a run that was never killed"
    assert not [path for path in run.rglob("*") if "partial" in path.name]
    assert not list(scratch.iterdir())
    return kills


def main(wanted: int, seed: int) -> None:
    rng, killed, runs, begin = random.Random(seed), 0, 0, time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        # Below a folder where the runs share their cache.
        shared = Path(name, "runs")
        (shared / "whole").mkdir(parents=True)
        expected = uninterrupted(shared / "whole", "quick")
        while killed < wanted:
            folder = shared / f"run{runs}"
            folder.mkdir()
            killed += kill_one_run(folder, min(KILLS_OF_A_RUN, wanted - killed), rng, expected)
            runs += 1
            sys.stdout.write(f"{killed} kills in {runs} runs, {time.monotonic() - begin:.0f} s: nothing lost\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*(int(given) for given in [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]]))
