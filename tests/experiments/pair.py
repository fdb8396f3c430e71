"""Measure one pair with this harness within a wall time: an arm and itself, unchanged or slowed down."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from noise import ARM, STANDARD, measure
from subject import BATCH_SIZE

from bench.analysis.run import Run
from bench.analysis.speedups import speedups
from bench.clock import now_ns
from bench.machine.facts import usable_cores
from bench.suite.selftest import equal_suite

# Overheads of a process in a block besides the import of the framework, and of a turn besides its slice.
BUILD_S, TURN_S = 0.35, 0.018
# The time in which processes start side by side, as a share of that one after the other.
TOGETHER = 0.6
# The time before the first block: seconds, and imports of the framework.
PROOF_S, PROOF_IMPORTS = 3.0, 3


def import_s() -> float:
    """Return the current time to import the framework, which dominates the time of a block."""
    moments = [now_ns()]
    # The first import may read from disk.
    for _ in range(2):
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        moments.append(now_ns())
    return (moments[2] - moments[1]) / 1e9


def affordable_blocks(budget: float, arms: int) -> int:
    """Return how many blocks fit into a budget in s, at least those that an interval needs.

    As if each had all of its further rounds, which a quiet machine does not need.
    """
    start_s, rounds = import_s(), STANDARD.rounds + STANDARD.further_rounds
    block_s = arms * (TOGETHER * (start_s + BUILD_S) + rounds * (STANDARD.slice_ns / 1e9 + TURN_S))
    return max(6, int((budget - PROOF_S - (2 + PROOF_IMPORTS) * start_s) / block_s))


def main() -> None:
    """Print the ratio and whether it is claimed to differ from 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    arms = 3 if arguments.delay else 2
    preset = replace(STANDARD, blocks=affordable_blocks(arguments.budget, arms))
    patterns = (ARM, replace(ARM, delay=arguments.delay)) if arguments.delay else (ARM,)
    suite = replace(equal_suite(ARM, [usable_cores()]), arm_patterns=patterns, batch_sizes=(BATCH_SIZE,))
    folder = arguments.folder / "run"
    measure(suite, preset, usable_cores(), folder)
    row = next(row for row in speedups(Run(folder)) if row.pair.arm.replica != bool(arguments.delay))
    if row.speedup is None or row.interval is None:
        raise SystemExit(row.verdict.reason)
    print(1 / row.speedup, row.interval.excludes(1))


if __name__ == "__main__":
    main()
