"""Kill runs at random moments and let them go on, to see that every slice counts once and nothing is left behind.

    python -m tests.experiments.kills [KILLS]

Each run measures toy arms. Its process is killed with SIGKILL after a random time, again and again, until it gets to
its end. Then the slices that count must be those of the schedule, each of them once, and the journal's links intact.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from bench.analysis.run import Run
from bench.journal import broken_link
from bench.records import Resume, Slice
from tests.command_line import environment_of

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
# The longest time until a process is killed, and how long a killed process and its workers may take to be gone.
LONGEST_S, GONE_S = 12.0, 60


def kill_one_run(folder: Path, most: int, rng: random.Random) -> int:
    """Measure a run that is killed up to `most` times; return how often. Raises AssertionError if something is lost."""
    (folder / "toys.toml").write_text(SUITE)
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        "--suite",
        "./toys.toml",
        "--preset",
        "quick",
        "--data",
        "synthetic",
    ]
    environment = environment_of(folder, command)
    run, kills = folder / "results" / "r", 0
    while True:
        name = ["--resume", "r"] if (run / "journal.jsonl").exists() else ["--name", "r"]
        process = subprocess.Popen(
            [*command, *name], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        try:
            _, errors = process.communicate(timeout=rng.uniform(0, LONGEST_S) if kills < most else None)
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.communicate()
            kills += 1
            _, left = psutil.wait_procs(children, timeout=GONE_S)
            alive = [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
            assert not alive, f"workers that outlive their run: {alive}"
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
    return kills


def main(wanted: int) -> None:
    rng, killed, runs, begin = random.Random(0), 0, 0, time.monotonic()
    while killed < wanted:
        with tempfile.TemporaryDirectory() as name:
            # Below a folder of its own, where the runs share their cache.
            folder = Path(name, "one", "two")
            folder.mkdir(parents=True)
            killed += kill_one_run(folder, min(25, wanted - killed), rng)
        runs += 1
        sys.stdout.write(f"{killed} kills in {runs} runs, {time.monotonic() - begin:.0f} s: nothing lost\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 200)
