"""The committed reference run: analysing it again gives the committed results."""

import csv
from pathlib import Path

import pytest

from bench.analysis.costs import cost
from bench.analysis.run import Run
from bench.analysis.speedups import speedups

FOLDER = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture(scope="module")
def run():
    return Run(FOLDER)


def rows(name) -> list[dict[str, str]]:
    with (FOLDER / name).open() as stream:
        return list(csv.DictReader(stream))


def test_every_comparison_has_its_committed_result(run) -> None:
    measured = [
        (row.pair.arm.variant, row.verdict.word, f"{row.speedup:.6g}", f"{row.interval.low:.6g}")
        for row in speedups(run)
    ]
    committed = [(row["variant"], row["verdict"], row["speedup"], row["ci_low"]) for row in rows("speedups.csv")]
    assert measured == committed


def test_every_arm_has_its_committed_restart(run) -> None:
    costs = [cost(run, arm, case) for case in run.cases for arm in run.participants(case)]
    measured = ["" if row.restart_ns is None else f"{row.restart_ns / 1e9:.6g}" for row in costs]
    assert measured == [row["restart_s"] for row in rows("arms.csv")]
