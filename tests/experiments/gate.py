"""Simulate pairs of runs, and count how often `bench compare --fail-if-slower 5%` and simpler rules fail.

    python tests/experiments/gate.py [SIMULATIONS]
    python tests/experiments/gate.py history    # how often `bench history` finds a change, with and without one

A run has the preset's blocks of nine arms on two cases. Its latencies have four parts: a drift that all arms of the run
share, an effect of the run on each arm, the state of the machine in a block, and the process. Each block is also one
in twenty times 10 % slower for one arm alone.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.analysis.gates import FASTER, SLOWER
from bench.analysis.stats import rank_sum_p, shift
from bench.compare.changes import compare_runs
from bench.compare.history import change_points
from bench.suite.arms import Arm, Case
from tests.analysis.recorded_run import CASE, EAGER, JIT, inference_run

if TYPE_CHECKING:
    from bench.analysis.run import Run

THRESHOLD, BLOCKS = 0.05, 16
OTHERS = (
    Arm("pytorch", "channels_last"), Arm("pytorch", "jit"), Arm("ipex", "compile"), Arm("ipex", "eager"),
    Arm("ipex", "jit", "bf16"),
)  # fmt: skip
# Standard deviations of the log latency: of a run, of an arm in a run, of a block, and of a process.
BLOCK, PROCESS = 0.03, 0.01
SESSIONS = ((0.0, 0.0), (0.03, 0.0), (0.10, 0.0), (0.03, 0.01), (0.10, 0.01), (0.10, 0.02))
SLOWDOWNS = (0.05, 0.06, 0.08, 0.10, 0.15)
OUTLIERS, OUTLIER = 0.05, 0.10
SECOND = Case("cnn-small", "latency", 64)


def template(folder: Path) -> Run:
    """Return a recorded run of all arms on both cases, whose latencies are replaced."""
    builder = inference_run(folder)
    for arm in OTHERS:
        builder.add_arm(arm, EAGER if arm.stack == "pytorch" else JIT)
    records = [replace(record, case=SECOND.id) for record in builder.records if getattr(record, "case", "") == CASE.id]
    builder.records += records
    pairs = tuple(replace(pair, case=SECOND.id) for pair in builder.info.pairs)
    return builder.describe(
        cases=(CASE, SECOND),
        lineups={case.id: builder.info.lineups[CASE.id] for case in (CASE, SECOND)},
        pairs=(*builder.info.pairs, *pairs),
    ).read()


def simulated(run: Run, random: np.random.Generator, drift: float, effect: float, slower: float = 0.0) -> Run:
    """Return a run with random latencies; `slower` is the true slowdown of one arm on one case."""
    common, latencies = random.normal(0, drift), {}
    for case in run.cases:
        blocks = random.normal(0, BLOCK, BLOCKS)
        for arm in run.participants(case):
            values = common + random.normal(0, effect) + blocks + random.normal(0, PROCESS, BLOCKS)
            values += OUTLIER * (random.random(BLOCKS) < OUTLIERS)
            if (arm, case) == (JIT, CASE):
                values += math.log1p(slower)
            latencies[arm.id, case.id] = {(block, 0): 1e5 * math.exp(value) for block, value in enumerate(values)}
    made = copy.copy(run)
    made.__dict__ |= {"_latencies": latencies, "_block_latencies_ns": {}}
    return made


def alarms(before: Run, after: Run) -> dict[str, set[tuple[Arm, Case]]]:
    """Return by rule the arms and cases that it fails for."""
    (comparison,) = compare_runs(before, [after], THRESHOLD)
    limit, found = math.log1p(THRESHOLD), {rule: set[tuple[Arm, Case]]() for rule in RULES}
    for row in comparison.rows:
        one, other = (
            [-math.log(v) for v in run.block_latencies_ns(row.arm, row.case).values()] for run in (before, after)
        )
        place = row.arm, row.case
        if median(one) - median(other) > limit:
            found["medians over 5 % apart"].add(place)
        if rank_sum_p(one, other) <= 0.025 and -shift(one, other) > limit:
            found["and significant (p < 5 %)"].add(place)
        if row.verdict.word in (FASTER, SLOWER):
            found["FASTER or SLOWER"].add(place)
        if row.regression:
            found["gate"].add(place)
    return found


RULES = ("medians over 5 % apart", "and significant (p < 5 %)", "FASTER or SLOWER", "gate")


def print_history() -> None:
    """Print by number of runs how often a series has a change point without a change, and with one of 4 sd."""
    random, sd, count = np.random.default_rng(1), 0.02, 1000
    for runs in (8, 12, 20, 40):
        step = 4 * sd * (np.arange(runs) >= runs // 2)
        level = [bool(change_points(list(random.normal(0, sd, runs)))) for _ in range(count)]
        stepped = (change_points(list(random.normal(step, sd))) for _ in range(count))
        found = [any(abs(index - runs // 2) <= 1 for index in indices) for indices in stepped]
        print(f"{runs} runs: {100 * sum(level) / count:.1f} % without a change, {100 * sum(found) / count:.1f} % with")


def main() -> None:
    """Print a row for each kind of machine: the share of comparisons with any false alarm, and the power."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as name:
        run = template(Path(name) / "run")
        other = copy.copy(run)
        other.info = replace(run.info, started="2026-02-01T00:00:00+00:00")
        print(f"{count} pairs of runs, {BLOCKS} blocks, 16 rows each; threshold {THRESHOLD:.0%}")
        print("drift of a run, effect of a run on an arm: share of comparisons with a false alarm, %")
        for drift, effect in SESSIONS:
            hits = dict.fromkeys(RULES, 0)
            for _ in range(count):
                found = alarms(simulated(run, random, drift, effect), simulated(other, random, drift, effect))
                hits = {rule: hits[rule] + bool(found[rule]) for rule in RULES}
            print(
                f"{drift:4.0%} {effect:4.0%}  "
                + "  ".join(f"{rule} {100 * hits[rule] / count:5.1f}" for rule in RULES),
                flush=True,
            )
        print("true slowdown of one arm: how often the gate names it, %, by drift and effect of a run")
        for slower in SLOWDOWNS:
            shares = []
            for drift, effect in ((0.03, 0.0), (0.10, 0.01)):
                pairs = (
                    (simulated(run, random, drift, effect), simulated(other, random, drift, effect, slower))
                    for _ in range(count)
                )
                named = sum((JIT, CASE) in alarms(before, after)["gate"] for before, after in pairs)
                shares.append(f"{drift:.0%} {effect:.0%}: {100 * named / count:5.1f}")
            print(f"{slower:4.0%}  {'  '.join(shares)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["history"]:
        print_history()
    else:
        main()
