"""The two tables of a run: arms.csv and speedups.csv."""

from __future__ import annotations

from itertools import chain
from statistics import mean
from typing import TYPE_CHECKING, Any

from bench.analysis import gates
from bench.analysis.attribution import attributions
from bench.analysis.costs import cost
from bench.analysis.roofline import reaches
from bench.analysis.scaling import sweeps
from bench.analysis.stats import percentile
from bench.analysis.tradeoffs import tradeoffs
from bench.analysis.training import GOALS, trained_arms
from bench.records import watched_ns
from bench.suite.arms import LATENCY

if TYPE_CHECKING:
    from bench.analysis.attribution import Attribution, Rung
    from bench.analysis.gates import Estimate
    from bench.analysis.roofline import RooflinePoint
    from bench.analysis.scaling import Curve, Sweep
    from bench.analysis.speedups import Run, Speedup
    from bench.analysis.tradeoffs import Tradeoff
    from bench.analysis.training import TrainedArm
    from bench.records import Turn
    from bench.suite.arms import Arm, Case

ARMS, SPEEDUPS, ATTRIBUTION, TRADEOFFS = "arms.csv", "speedups.csv", "attribution.csv", "tradeoffs.csv"
TRAINING_TABLE, SCALING = "training.csv", "scaling.csv"
PERCENTILES = (90, 95, 99, 99.9)


def render(run: Run, arms: dict[Case, list[dict[str, Any]]]) -> dict[str, str]:
    """Return {file name: text} of the tables that have rows; `arms` are the rows of `arm_rows`."""
    import pandas as pd

    tables = {
        ARMS: list(chain.from_iterable(arms.values())),
        SPEEDUPS: speedup_rows(run),
        ATTRIBUTION: [_rung_row(run, each, rung) for each in attributions(run) for rung in each.rungs],
        TRAINING_TABLE: [_trained_row(run, case, each) for case in run.cases for each in trained_arms(run, case)],
        SCALING: [row for sweep in sweeps(run) for curve in sweep.curves for row in _curve_rows(run, sweep, curve)],
        TRADEOFFS: [_tradeoff_row(run, case, each) for case in run.cases for each in tradeoffs(run, case)],
    }
    tables = {name: rows for name, rows in tables.items() if rows or name in (ARMS, SPEEDUPS)}
    return {name: pd.DataFrame(rows).to_csv(index=False, float_format="%.6g") for name, rows in tables.items()}


def speedup_rows(run: Run) -> list[dict[str, Any]]:
    """Return a row for each comparison."""
    return [_case_columns(run, row.pair.case, row.pair.arm) | _speedup_columns(run, row) for row in run.speedups]


def _case_columns(run: Run, case: Case, arm: Arm) -> dict[str, Any]:
    return {
        "suite": run.info["suite"]["name"],
        "model": case.model,
        "scenario": case.scenario,
        "batch_size": case.batch_size,
        "precision": arm.precision,
    }


def _speedup_columns(run: Run, row: Speedup) -> dict[str, Any]:
    pair, estimate = row.pair, row.estimate
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
        "accuracy": run.accuracy(pair.arm, pair.case),
        "baseline_accuracy": run.accuracy(pair.baseline, pair.case),
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
        "settings": pair.arm.settings,
        "threads": run.threads(pair.case),
    }


def _rung_row(run: Run, attribution: Attribution, rung: Rung) -> dict[str, Any]:
    return (
        {"ladder": attribution.name, "step": rung.name}
        | _case_columns(run, attribution.case, rung.arm)
        | {"stack": rung.arm.stack, "variant": rung.arm.variant, "settings": rung.arm.settings}
        | _estimate_columns("step", rung.step)
        | _estimate_columns("total", rung.total)
    )


def _tradeoff_row(run: Run, case: Case, row: Tradeoff) -> dict[str, Any]:
    return (
        _case_columns(run, case, row.arm)
        | {"stack": row.arm.stack, "variant": row.arm.variant, "against": row.against.id}
        | _estimate_columns("speed", row.estimate)
        | {"accuracy": row.accuracy, "relative_accuracy": row.relative_accuracy}
        | {"lost": row.lost, "won": row.won, "mcnemar_p": row.p_value, "fault": row.fault or ""}
    )


def _curve_rows(run: Run, sweep: Sweep, curve: Curve) -> list[dict[str, Any]]:
    arm = {"stack": curve.arm.stack, "variant": curve.arm.variant, "settings": curve.arm.settings}
    return [
        {"over": sweep.over}
        | _case_columns(run, point.case, curve.arm)
        | {"threads": run.threads(point.case), **arm}
        | {"latency_us": point.latency_ns / 1e3, "images_per_s": point.images_per_s}
        | _estimate_columns("gain", point.gain)
        for point in curve.points
    ]


def _trained_row(run: Run, case: Case, row: TrainedArm) -> dict[str, Any]:
    found, times = row.difference, {f"time_to_{goal:.0%}_s": _seconds(row.time_to_ns(goal)) for goal in GOALS}
    interval = found.interval if found else None
    return (
        _case_columns(run, case, row.arm)
        | {"stack": row.arm.stack, "variant": row.arm.variant, "settings": row.arm.settings}
        | {"replica": row.arm.replica, "epochs": row.epochs, "epoch_s": _seconds(row.epoch_ns)}
        | {"first_epoch_s": _seconds(row.first_epoch_ns), "images_per_s": row.images_per_s}
        | {"wait_share": row.wait_share, "peak_memory_bytes": row.memory_bytes}
        | {name.replace("%", ""): value for name, value in times.items()}
        | {f"seeds_that_reached_{goal * 100:.0f}": len(row.goals[goal]) for goal in GOALS}
        | {"seeds": len(row.final), "accuracy": row.accuracy, "accuracy_sd": row.deviation}
        | {"against": found.against.id if found else None, "accuracy_difference": found.mean if found else None}
        | {"difference_low": interval.low if interval else None, "difference_high": interval.high if interval else None}
        | {"judgement": found.word if found else ""}
    )


def _estimate_columns(prefix: str, estimate: Estimate | None) -> dict[str, Any]:
    interval = estimate.ratio_interval if estimate else None
    return {
        f"{prefix}_ratio": estimate.speedup if estimate else None,
        f"{prefix}_ci_low": interval.low if interval else None,
        f"{prefix}_ci_high": interval.high if interval else None,
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
    return {case: _rows_of(run, case) for case in run.cases}


def _rows_of(run: Run, case: Case) -> list[dict[str, Any]]:
    reached = {each.arm: each for each in reaches(run, case)}
    return [_arm_row(run, arm, case) | _reach_columns(reached.get(arm)) for arm in run.lineup(case)]


def _arm_row(run: Run, arm: Arm, case: Case) -> dict[str, Any]:
    names = ("stack", "variant", "settings", "replica")
    identity = {"arm": arm.id} | {name: getattr(arm, name) for name in names}
    turns = run.turns.get((arm.id, case.id), [])
    return (
        _case_columns(run, case, arm)
        | identity
        | _status(run, arm, case, turns)
        | _times(run, arm, case, turns)
        | _facts(run, arm, case)
    )


def _status(run: Run, arm: Arm, case: Case, turns: list[Turn]) -> dict[str, Any]:
    failures = run.failures.get((arm.id, case.id), [])
    failure = failures[0] if failures else None if turns else run.failure(arm, case)
    unfinished = "" if turns else "the run ended before it was measured"
    return {
        "status": "measured" if turns else "skipped" if failure and failure.skipped else "failed",
        "reason": failure.reason if failure else unfinished,
        "failed_blocks": len({each.block for each in failures} - {None}),
    }


def _times(run: Run, arm: Arm, case: Case, turns: list[Turn]) -> dict[str, Any]:
    """Return the absolute times; percentiles only where there are enough samples, and none where many are under way."""
    samples = sorted(sample for each in run.slices(arm, case) for sample in each.samples_ns)
    latencies = samples if case.scenario == LATENCY else []
    typical = run.typical_latency_ns(arm, case)
    percentiles = {percent: percentile(latencies, percent) for percent in PERCENTILES}
    wall = sum(each.wall_ns for each in turns)
    return {
        "samples": len(samples),
        "blocks": len({each.block for each in turns}),
        "latency_us": _micro(typical if case.scenario == LATENCY else None),
        "mean_latency_us": _micro(mean(latencies) if latencies else None),
        **{f"p{percent}_us": _micro(value) for percent, value in percentiles.items()},
        "throughput_images_per_s": run.images_per_turn(case) / typical * 1e9 if typical else None,
        "cores_used": sum(each.cpu_ns for each in turns) / wall if turns else None,
        "involuntary_switches_per_s": _rate(turns),
        "stolen_cores": sum(each.steal_ns for each in turns) / sum(map(watched_ns, turns)) if turns else None,
        "foreign_cores": _foreign_cores(turns),
    }


def _foreign_cores(turns: list[Turn]) -> float | None:
    used = [each.foreign_ns for each in turns if each.foreign_ns is not None]
    return max(0, sum(used)) / sum(map(watched_ns, turns)) if used else None


def _rate(turns: list[Turn]) -> float | None:
    wall = sum(each.wall_ns for each in turns)
    return sum(each.involuntary_switches for each in turns) / wall * 1e9 if wall else None


def _facts(run: Run, arm: Arm, case: Case) -> dict[str, Any]:
    """Return costs and accuracy from the proof pass, and what the blocks' checks saw."""
    spent, proof = cost(run, arm, case), run.proof(arm, case)
    seen = run.checks.get((arm.id, case.id), [])
    return {
        "convert_s": _seconds(spent.convert_ns if spent.start else None),
        "import_s": _seconds(spent.start.import_ns if spent.start else None),
        "build_s": _seconds(spent.start.build_ns if spent.start else None),
        "first_call_s": _seconds(spent.start.first_call_ns if spent.start else None),
        "cold_start_s": _seconds(spent.cold_start_ns),
        "restart_s": _seconds(spent.restart_ns),
        "break_even_images": spent.break_even_images,
        "peak_memory_bytes": spent.memory_bytes or run.trained_memory_bytes(arm, case),
        "installed_bytes": spent.installed_bytes,
        "saved_bytes": spent.saved_bytes,
        "accuracy": run.accuracy(arm, case),
        "oracle_max_abs_logit_diff": proof.max_abs_logit_diff if proof else None,
        "oracle_agreement": proof.agreement if proof else None,
        "threads": run.threads(case),
        "threads_read_back": proof.threads if proof else None,
        "precision_read_back": proof.precision if proof else None,
        "blocks_without_steady_state": sum(not each.steady for each in seen),
        "data": run.data,
    }


def _reach_columns(reach: RooflinePoint | None) -> dict[str, Any]:
    """Return how near an arm comes to what the machine can do."""
    return {
        "gflop_per_s": reach.operations_per_s / 1e9 if reach else None,
        "limit_gflop_per_s": reach.limit.operations / reach.limit.time_ns if reach else None,
        "limit_is": reach.limit.bound if reach else "",
        "share_of_limit": reach.share if reach else None,
    }


def idle_share(run: Run) -> float | None:
    """Return the share of one core that all idle workers together burned while an arm was measured."""
    return _share(run, "idle_cpu_ns")


def harness_share(run: Run) -> float | None:
    """Return the share of one core that the orchestrator burned while an arm was measured."""
    return _share(run, "harness_cpu_ns")


def foreign_share(run: Run) -> float | None:
    """Return the share of the arms' cores that other processes used meanwhile; None where it was not recorded."""
    turns = [(run.threads(case), each) for case in run.cases for each in _turns_on(run, case)]
    used = [turn.foreign_ns for _, turn in turns if turn.foreign_ns is not None]
    return max(0, sum(used)) / sum(watched_ns(turn) * threads for threads, turn in turns) if used else None


def _turns_on(run: Run, case: Case) -> list[Turn]:
    return [each for arm in run.lineup(case) for each in run.turns.get((arm.id, case.id), [])]


def _share(run: Run, field: str) -> float | None:
    turns = [each for every in run.turns.values() for each in every]
    watched = sum(map(watched_ns, turns))
    return sum(getattr(each, field) for each in turns) / watched if watched else None


def failed(run: Run) -> list[tuple[Arm, Case, dict[str, Any]]]:
    """Return the status of each arm that failed, or that lost blocks."""
    found = [
        (arm, case, _status(run, arm, case, run.turns.get((arm.id, case.id), [])))
        for case in run.cases
        for arm in run.lineup(case)
    ]
    return [each for each in found if each[2]["status"] == "failed" or each[2]["failed_blocks"]]


def withheld(run: Run) -> list[Speedup]:
    """Return the comparisons that a gate keeps from being claimed."""
    return [row for row in run.speedups if row.verdict.word == gates.WITHHELD]


def _ratio(log_ratio: float | None) -> float | None:
    from math import exp

    return None if log_ratio is None else exp(log_ratio)


def _micro(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e3


def _seconds(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e9
