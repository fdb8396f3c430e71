"""The JSON that other benchmark tools read. None of them knows that the arms of a run are paired by block."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any

from bench.analysis.speedups import arm_trouble, speedups
from bench.analysis.stats import Interval, quantile, wilcoxon_interval

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.analysis.run import Run
    from bench.suite.arms import Arm, Case

# The versions of the formats that are written.
PYPERF_VERSION, PYTEST_BENCHMARK_VERSION = "1.0", "5.3.1"
# The confidence of the intervals of an arm's own times.
LATENCY_CONFIDENCE = 0.95
# Bencher refuses longer names.
LONGEST_NAME = 1024
LONGEST_STEM = 100


def valid_arms(run: Run) -> Iterator[tuple[Arm, Case]]:
    """Yield the arms that have valid times of a case: measured, and withheld by no gate."""
    for case in run.cases:
        for arm in run.participants(case):
            if arm_trouble(run, arm, case) is None:
                yield arm, case


def left_out(run: Run) -> list[str]:
    """Return a line for each arm that other tools do not get, with the reason."""
    arms = ((arm, case, arm_trouble(run, arm, case)) for case in run.cases for arm in run.participants(case))
    return [f"{arm.label}, {case.label}: left out: {trouble.reason}" for arm, case, trouble in arms if trouble]


def to_pyperf(run: Run) -> dict[str, str]:
    """Return a file for each arm: a benchmark for each case, a run for each process, a value for each slice."""
    arms: dict[Arm, list[Case]] = {}
    for arm, case in valid_arms(run):
        arms.setdefault(arm, []).append(case)
    stems = file_stems([arm.id for arm in arms])
    metadata = {"unit": "second", "cpu_model_name": run.info.machine.cpu, "platform": run.info.machine.system or ""}
    return {
        f"{stems[arm.id]}.json": _json(
            {
                "version": PYPERF_VERSION,
                "metadata": {**{key: value for key, value in metadata.items() if value}, "description": arm.label},
                "benchmarks": [
                    {
                        "metadata": {"name": case.id},
                        "runs": [{"values": values} for values in _by_block(run, arm, case)],
                    }
                    for case in cases
                ],
            }
        )
        for arm, cases in arms.items()
    }


def file_stems(names: Sequence[str]) -> dict[str, str]:
    """Return by name a stem that stays inside its folder; equal ones, case ignored, get a number."""
    stems: dict[str, str] = {}
    for name in names:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST_STEM] or "arm"
        taken, number, free = {other.lower() for other in stems.values()}, 1, stem
        while free.lower() in taken:
            number += 1
            free = f"{stem}-{number}"
        stems[name] = free
    return stems


def _by_block(run: Run, arm: Arm, case: Case) -> list[list[float]]:
    blocks: dict[int, list[float]] = {}
    for (block, _), time_ns in run.turn_latencies_ns(arm, case).items():
        blocks.setdefault(block, []).append(time_ns / 1e9)
    return list(blocks.values())


def to_pytest_benchmark(run: Run) -> dict[str, str]:
    """Return one file: a benchmark for each arm and case, a round for each slice."""
    machine = run.info.machine
    content = {
        "machine_info": {
            "node": "",
            "machine": "x86_64",
            "python_version": machine.python or "",
            "system": machine.system or "",
            "cpu": {"brand_raw": machine.cpu, "count": machine.cores},
        },
        "commit_info": {"id": run.info.git_commit or "unversioned", "dirty": False},
        "benchmarks": [
            {
                "group": case.id,
                "name": arm.id,
                "fullname": f"{case.id}::{arm.id}",
                "params": None,
                "param": None,
                "extra_info": {"blocks": len(run.block_latencies_ns(arm, case))},
                "options": {},
                "stats": _stats([value for block in _by_block(run, arm, case) for value in block]),
            }
            for arm, case in valid_arms(run)
        ],
        "datetime": _moment(run.info.started),
        "version": PYTEST_BENCHMARK_VERSION,
    }
    return {"benchmarks.json": _json(content)}


def _moment(started: str) -> str:
    """Return the start of a run with its time zone; a run of a stranger may have any text there."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        moment = datetime.fromtimestamp(0, UTC)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _stats(values: Sequence[float]) -> dict[str, Any]:
    ordered, mean = sorted(values), fmean(values)
    deviation = stdev(values) if len(values) > 1 else 0.0
    q1, q3 = quantile(ordered, 0.25), quantile(ordered, 0.75)
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far, unusual = sum(not low <= x <= high for x in values), sum(abs(x - mean) > deviation for x in values)
    return {
        "min": ordered[0], "max": ordered[-1], "mean": mean, "stddev": deviation, "rounds": len(values),
        "median": median(ordered), "iqr": q3 - q1, "q1": q1, "q3": q3, "iqr_outliers": far,
        "stddev_outliers": unusual, "outliers": f"{unusual};{far}",
        "ld15iqr": next(x for x in ordered if x >= low), "hd15iqr": next(x for x in reversed(ordered) if x <= high),
        "ops": 1 / mean, "total": sum(values), "data": list(values), "iterations": 1,
    }  # fmt: skip


def to_github_action(run: Run) -> dict[str, str]:
    """Return a file for each direction: latencies, and throughputs and speedups."""
    latencies, throughputs = [], []
    for arm, case in valid_arms(run):
        typical, interval = _latency_ns(run, arm, case)
        name, extra = f"{case.label}: {arm.label}", f"{len(run.block_latencies_ns(arm, case))} blocks"
        latencies.append(_entry(name, "us", typical / 1e3, _scaled(interval, 1e-3), extra))
        rate, rates = _throughput(run, case, typical, interval)
        throughputs.append(_entry(name, "images/s", rate, rates, extra))
    ratios = []
    for row in speedups(run):
        if row.speedup is not None and row.verdict.is_sound:
            name = f"{row.pair.case.label}: {row.pair.arm.label} / {row.pair.baseline.label}"
            blocks = row.estimate.blocks if row.estimate else 0
            ratios.append(_entry(name, "x", row.speedup, row.interval, f"{row.verdict.word}, {blocks} blocks"))
    return {
        "smaller-is-better.json": _json(latencies),
        "bigger-is-better.json": _json(throughputs),
        "speedups-bigger-is-better.json": _json(ratios),
    }


def _entry(name: str, unit: str, value: float, interval: Interval | None, extra: str) -> dict[str, Any]:
    entry = {"name": name, "unit": unit, "value": value, "extra": extra}
    return entry | ({"range": f"{interval.low:.6g} to {interval.high:.6g}"} if interval else {})


def to_bencher(run: Run) -> dict[str, str]:
    """Return Bencher Metric Format: latency in ns, throughput and speedup, each with its interval."""
    content: dict[str, dict[str, dict[str, float]]] = {}
    for arm, case in valid_arms(run):
        typical, interval = _latency_ns(run, arm, case)
        rate, rates = _throughput(run, case, typical, interval)
        content[f"{case.id} {arm.id}"[:LONGEST_NAME]] = {
            "latency": _metric(typical, interval),
            "throughput": _metric(rate, rates),
        }
    for row in speedups(run):
        if row.speedup is not None and row.verdict.is_sound:
            name = f"{row.pair.case.id} {row.pair.arm.id} / {row.pair.baseline.id}"[:LONGEST_NAME]
            content[name] = {"speedup": _metric(row.speedup, row.interval)}
    return {"bencher.json": _json(content)}


def _metric(value: float, interval: Interval | None) -> dict[str, float]:
    bounds = {"lower_value": interval.low, "upper_value": interval.high} if interval else {}
    return {"value": value, **bounds}


def _latency_ns(run: Run, arm: Arm, case: Case) -> tuple[float, Interval | None]:
    """Return the median over blocks of an arm's latency, with the interval of Wilcoxon."""
    blocks = list(run.block_latencies_ns(arm, case).values())
    logs = wilcoxon_interval([math.log(value) for value in blocks], LATENCY_CONFIDENCE)
    return median(blocks), Interval(math.exp(logs.low), math.exp(logs.high)) if logs else None


def _throughput(run: Run, case: Case, typical_ns: float, interval: Interval | None) -> tuple[float, Interval | None]:
    images = run.images_per_turn(case) * 1e9
    return images / typical_ns, Interval(images / interval.high, images / interval.low) if interval else None


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    return Interval(interval.low * factor, interval.high * factor) if interval else None


def _json(content: object) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
