"""Measure one pair with this harness within a wall time: an arm and itself, slowed down by a known share or not."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from noise import ARM, USUAL, measure
from subject import BATCH_SIZE

from bench.analysis import Run
from bench.machine import usable_cores
from bench.selftest import make_suite

FIXED_S, ARM_START_S, TURN_S = 24.0, 1.9, 0.02  # what a run costs beside its blocks; an arm in a block; a turn


def main() -> None:
    """Print the ratio and whether it is claimed to differ from 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--folder", type=Path)
    wanted = parser.parse_args()
    arms = 3 if wanted.delay else 2
    block_s = arms * (ARM_START_S + USUAL.rounds * (USUAL.slice_ns / 1e9 + TURN_S))
    preset = replace(USUAL, blocks=max(6, round((wanted.budget - FIXED_S) / block_s)))
    uses = (ARM, replace(ARM, delay=wanted.delay)) if wanted.delay else (ARM,)
    suite = replace(make_suite(ARM, [usable_cores()]), uses=uses, batch_sizes=(BATCH_SIZE,))
    folder = wanted.folder / "run"
    measure(suite, preset, usable_cores(), folder)
    row = next(row for row in Run(folder).speedups if row.pair.arm.replica != bool(wanted.delay))
    if row.speedup is None or row.interval is None:
        raise SystemExit(row.verdict.reason)
    print(1 / row.speedup, row.interval.excludes(1))


if __name__ == "__main__":
    main()
