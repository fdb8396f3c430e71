"""The two tables of a run: arms.csv and speedups.csv."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, product
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from bench import checks
from bench.stats import percentile

if TYPE_CHECKING:
    from bench.analysis import Run, Speedup
    from bench.records import Arm, Case, Slice, Start

ARMS, SPEEDUPS = "arms.csv", "speedups.csv"
PERCENTILES = (90, 95, 99, 99.9)


def render(run: Run, arms: dict[Case, list[dict[str, Any]]]) -> dict[str, str]:
    """Return {file name: text} of both tables; `arms` are the rows of `arm_rows`."""
    import pandas as pd

    tables = {ARMS: list(chain.from_iterable(arms.values())), SPEEDUPS: speedup_rows(run)}
    return {name: pd.DataFrame(rows).to_csv(index=False, float_format="%.6g") for name, rows in tables.items()}


def speedup_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row for each comparison."""
    return [_case_columns(run, row.pair.case) | _speedup_columns(run, row) for row in run.speedups]


def _case_columns(run: Run, case: Case) -> dict[str, Any]:
    return {
        "suite": run.info["suite"]["name"],
        "model": case.model,
        "scenario": case.scenario,
        "batch_size": case.batch_size,
        "precision": case.precision,
    }


def _speedup_columns(run: Run, row: Speedup) -> dict[str, Any]:
    pair, estimate = row.pair, row.estimate
    proof, baseline_proof = run.proof(pair.arm, pair.case), run.proof(pair.baseline, pair.case)
    parity = run.parity(pair)
    signs = estimate.sign_interval if estimate else None
    unmarked = row.unmarked.ratio_interval if row.unmarked else None
    return {
        "stack": pair.arm.stack,
        "variant": pair.arm.variant,
        "baseline_stack": pair.baseline.stack,
        "baseline_variant": pair.baseline.variant,
        "speedup": row.speedup,
        "ci_low": row.interval.low if row.interval else None,
        "ci_high": row.interval.high if row.interval else None,
        "blocks": estimate.blocks if estimate else 0,
        "verdict": row.verdict.word,
        "accuracy": proof.accuracy if proof else None,
        "baseline_accuracy": baseline_proof.accuracy if baseline_proof else None,
        "max_abs_logit_diff": parity.max_abs_logit_diff if parity else None,
        "data": run.data,
        "reason": row.verdict.reason,
        "family": family(row),
        "matched": matching(row),
        "confidence": run.preset.confidence,
        "sign_ci_low": _ratio(signs.low if signs else None),
        "sign_ci_high": _ratio(signs.high if signs else None),
        "p_value": estimate.p_value if estimate else None,
        "speedup_without_marked_rounds": row.unmarked.speedup if row.unmarked else None,
        "ci_low_without_marked_rounds": unmarked.low if unmarked else None,
        "ci_high_without_marked_rounds": unmarked.high if unmarked else None,
        "threads": run.info["threads"],
    }


def family(row: Speedup) -> str:
    """Return what a comparison was planned as."""
    if row.pair.arm.replica:
        return "A/A"
    return "primary" if row.primary else "exploratory"


def matching(row: Speedup) -> str:
    """Return whether the environments of a pair are matched, or nothing where one is missing."""
    return {True: "matched", False: "unmatched", None: ""}[row.matched]


def arm_rows(run: Run) -> dict[Case, list[dict[str, Any]]]:
    """Return the rows of each case's arms, the failed and skipped ones included."""
    return {case: [_arm_row(run, arm, case) for arm in run.arms] for case in run.cases}


def _arm_row(run: Run, arm: Arm, case: Case) -> dict[str, Any]:
    identity = {"stack": arm.stack, "variant": arm.variant, "replica": arm.replica}
    slices = run.slices.get((arm.id, case.id), [])
    return (
        _case_columns(run, case)
        | identity
        | _status(run, arm, case, slices)
        | _times(run, arm, case, slices)
        | _facts(run, arm, case)
    )


def _status(run: Run, arm: Arm, case: Case, slices: list[Slice]) -> dict[str, Any]:
    failures = run.failures.get((arm.id, case.id), [])
    failure = failures[0] if failures else None if slices else run.failure(arm, case)
    unfinished = "" if slices else "the run ended before it was measured"
    return {
        "status": "measured" if slices else "skipped" if failure and failure.skipped else "failed",
        "reason": failure.reason if failure else unfinished,
        "failed_blocks": len({each.block for each in failures} - {None}),
    }


def _times(run: Run, arm: Arm, case: Case, slices: list[Slice]) -> dict[str, Any]:
    """Return the absolute times; percentiles only where there are enough samples for them."""
    samples = sorted(sample for each in slices for sample in each.samples_ns)
    typical = typical_latency_ns(run, arm, case)
    percentiles = {percent: percentile(samples, percent) for percent in PERCENTILES}
    wall = sum(samples)
    return {
        "samples": len(samples),
        "blocks": len({each.block for each in slices}),
        "latency_us": _micro(typical),
        "mean_latency_us": _micro(mean(samples) if samples else None),
        **{f"p{percent}_us": _micro(value) for percent, value in percentiles.items()},
        "throughput_images_per_s": len(samples) * case.batch_size / wall * 1e9 if wall else None,
        "cores_used": sum(each.cpu_ns for each in slices) / sum(each.wall_ns for each in slices) if slices else None,
        "involuntary_switches_per_s": _rate(slices),
    }


def typical_latency_ns(run: Run, arm: Arm, case: Case) -> float | None:
    """Return the median over blocks of the median over rounds of the slices' median latencies."""
    blocks = defaultdict[int, list[float]](list)
    for (block, _), latency in run.latencies.get((arm.id, case.id), {}).items():
        blocks[block].append(latency)
    return median(median(rounds) for rounds in blocks.values()) if blocks else None


def _rate(slices: list[Slice]) -> float | None:
    wall = sum(each.wall_ns for each in slices)
    return sum(each.involuntary_switches for each in slices) / wall * 1e9 if wall else None


def _facts(run: Run, arm: Arm, case: Case) -> dict[str, Any]:
    """Return cold start, memory and accuracy from the proof pass, and what the blocks' checks saw."""
    start = cold_start(run, arm, case)
    proof = run.proof(arm, case)
    seen = run.checks.get((arm.id, case.id), [])
    memory = [each.peak_memory_bytes for each in run.starts.get((arm.id, case.id), [])]
    return {
        "import_s": _seconds(start.import_ns if start else None),
        "build_s": _seconds(start.build_ns if start else None),
        "first_call_s": _seconds(start.first_call_ns if start else None),
        "cold_start_s": _seconds(cold_start_ns(run, arm, case)),
        "restart_s": _seconds(restart_ns(run, arm, case)),
        "break_even_images": break_even_images(run, arm, case),
        "peak_memory_bytes": max(memory) if memory else None,
        "accuracy": proof.accuracy if proof else None,
        "oracle_max_abs_logit_diff": proof.max_abs_logit_diff if proof else None,
        "oracle_agreement": proof.agreement if proof else None,
        "threads_read_back": proof.threads if proof else None,
        "precision_read_back": proof.precision if proof else None,
        "blocks_without_steady_state": sum(not each.steady for each in seen),
        "data": run.data,
    }


def cold_start(run: Run, arm: Arm, case: Case) -> Start | None:
    """Return the start of the proof pass, alone on the machine and with empty compile caches, or None."""
    starts = run.starts.get((arm.id, case.id), [])
    return next((each for each in starts if each.block is None), None)


def restart_ns(run: Run, arm: Arm, case: Case) -> float | None:
    """Return the median time that the blocks' processes took for the same, compile caches filled."""
    starts = [each for each in run.starts.get((arm.id, case.id), []) if each.block is not None]
    return median(each.total_ns for each in starts) if starts else None


def cold_start_ns(run: Run, arm: Arm, case: Case) -> int | None:
    """Return the time from an imported interpreter to the first answer: import, build, first call."""
    start = cold_start(run, arm, case)
    return start.total_ns if start else None


def break_even_images(run: Run, arm: Arm, case: Case) -> float | None:
    """Return after how many images a faster arm has paid for a longer start than the first of its baselines.

    Zero when it starts no slower; infinite when it is no faster; None when it has no baseline or was not measured.
    """
    baseline = next((pair.baseline for pair in run.pairs if pair.arm == arm and pair.case == case), None)
    if baseline is None or arm.replica:
        return None
    start, start_before = cold_start_ns(run, arm, case), cold_start_ns(run, baseline, case)
    latency, latency_before = typical_latency_ns(run, arm, case), typical_latency_ns(run, baseline, case)
    if start is None or start_before is None or latency is None or latency_before is None:
        return None
    longer, gain = start - start_before, (latency_before - latency) / case.batch_size
    if longer <= 0:
        return 0.0
    return longer / gain if gain > 0 else float("inf")


def idle_share(run: Run) -> float | None:
    """Return the share of one core that all idle workers together burned while an arm was measured."""
    return _share(run, "idle_cpu_ns")


def harness_share(run: Run) -> float | None:
    """Return the share of one core that the orchestrator burned while an arm was measured."""
    return _share(run, "harness_cpu_ns")


def _share(run: Run, field: str) -> float | None:
    slices = [each for every in run.slices.values() for each in every]
    wall = sum(each.wall_ns for each in slices)
    return sum(getattr(each, field) for each in slices) / wall if wall else None


def failed(run: Run) -> list[tuple[Arm, Case, dict[str, Any]]]:
    """Return the status of each arm that failed, or that lost blocks."""
    found = [
        (arm, case, _status(run, arm, case, run.slices.get((arm.id, case.id), [])))
        for case, arm in product(run.cases, run.arms)
    ]
    return [each for each in found if each[2]["status"] == "failed" or each[2]["failed_blocks"]]


def withheld(run: Run) -> list[Speedup]:
    """Return the comparisons that a gate keeps from being claimed."""
    return [row for row in run.speedups if row.verdict.word == checks.WITHHELD]


def _ratio(log_ratio: float | None) -> float | None:
    from math import exp

    return None if log_ratio is None else exp(log_ratio)


def _micro(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e3


def _seconds(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e9
