"""Measure one pair with this harness within a wall time: an arm and itself, slowed down by a known share or not."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from noise import ARM, USUAL, measure
from subject import BATCH_SIZE

from bench.analysis.run import Run
from bench.analysis.selftest import equal_suite
from bench.analysis.speedups import speedups
from bench.clock import now_ns
from bench.machine.facts import usable_cores

BUILD_S, TURN_S = 0.35, 0.02  # of a process in a block, beside the framework's import; of a turn, beside its slice
PROOF_S, PROOF_IMPORTS = 3.0, 4  # what a run costs before its blocks: seconds, and imports of the framework


def import_s() -> float:
    """Return how long the framework's import takes just now, on which the cost of a block depends most."""
    moments = [now_ns()]
    for _ in range(2):  # the first may read from disk
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        moments.append(now_ns())
    return (moments[2] - moments[1]) / 1e9


def affordable_blocks(budget: float, arms: int) -> int:
    """Return how many blocks fit into a budget; at least as many as an interval needs."""
    start_s = import_s()
    block_s = arms * (start_s + BUILD_S + USUAL.rounds * (USUAL.slice_ns / 1e9 + TURN_S))
    return max(6, int((budget - PROOF_S - (2 + PROOF_IMPORTS) * start_s) / block_s))


def main() -> None:
    """Print the ratio and whether it is claimed to differ from 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--folder", type=Path)
    wanted = parser.parse_args()
    arms = 3 if wanted.delay else 2
    preset = replace(USUAL, blocks=affordable_blocks(wanted.budget, arms))
    patterns = (ARM, replace(ARM, delay=wanted.delay)) if wanted.delay else (ARM,)
    suite = replace(equal_suite(ARM, [usable_cores()]), arm_patterns=patterns, batch_sizes=(BATCH_SIZE,))
    folder = wanted.folder / "run"
    measure(suite, preset, usable_cores(), folder)
    row = next(row for row in speedups(Run(folder)) if row.pair.arm.replica != bool(wanted.delay))
    if row.speedup is None or row.interval is None:
        raise SystemExit(row.verdict.reason)
    print(1 / row.speedup, row.interval.excludes(1))


if __name__ == "__main__":
    main()
