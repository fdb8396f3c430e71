"""Every figure of an arm: the rows of arms.csv, of which the report shows three tables."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING

from bench.analysis.costs import cost
from bench.analysis.roofline import roofline_points
from bench.analysis.speedups import arm_status
from bench.analysis.stats import percentile
from bench.records import counted_ns
from bench.report.document import Cell, Column
from bench.report.tables import case_columns, has_own_threads, scaled, worker_columns
from bench.report.text import counted, decimals3, number, number4, percent, split_text
from bench.suite.arms import LATENCY, QUERY_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.analysis.costs import Cost
    from bench.analysis.roofline import RooflinePoint
    from bench.analysis.run import Run
    from bench.analysis.speedups import ArmStatus
    from bench.records import Proof, Start, Turn
    from bench.suite.arms import Arm, Case

# The tables of the report, each with a group of the columns.
TIMES, COSTS, LIMITS = "times", "costs", "limits"


@dataclass(frozen=True)
class ArmRow:
    """An arm on a case; `latencies_ns` are its sorted samples, none if a sample is not a latency."""

    arm: Arm
    case: Case
    status: ArmStatus
    turns: Sequence[Turn]
    samples: int
    latencies_ns: Sequence[int]
    wall_ns: int
    counted_ns: int
    foreign_ns: int | None
    typical_ns: float | None
    cost: Cost
    proof: Proof | None
    point: RooflinePoint | None

    def percentile_us(self, percent: float) -> float | None:
        return scaled(percentile(self.latencies_ns, percent), 1e3)


def _stolen_cores(row: ArmRow) -> float | None:
    stolen = [turn.conditions.steal_ns for turn in row.turns if turn.conditions.steal_ns is not None]
    return sum(stolen) / row.counted_ns if stolen else None


def arm_rows(run: Run) -> dict[Case, list[ArmRow]]:
    """Return a row for each arm of each case, including failed and skipped ones."""
    points = {case: {point.arm: point for point in roofline_points(run, case)} for case in run.cases}
    return {
        case: [_arm_row(run, arm, case, points[case].get(arm)) for arm in run.participants(case)] for case in run.cases
    }


def _arm_row(run: Run, arm: Arm, case: Case, point: RooflinePoint | None) -> ArmRow:
    turns = run.turns.get((arm.id, case.id), [])
    samples = [sample for turn in run.slices(arm, case) for sample in turn.samples_ns]
    foreign = [turn.conditions.foreign_ns for turn in turns if turn.conditions.foreign_ns is not None]
    return ArmRow(
        arm=arm,
        case=case,
        status=arm_status(run, arm, case),
        turns=turns,
        samples=len(samples),
        latencies_ns=sorted(samples) if case.scenario == LATENCY else [],
        wall_ns=sum(turn.wall_ns for turn in turns),
        counted_ns=sum(map(counted_ns, turns)),
        foreign_ns=max(0, sum(foreign)) if foreign else None,
        typical_ns=run.typical_latency_ns(arm, case),
        cost=cost(run, arm, case),
        proof=run.proof(arm, case),
        point=point,
    )


def arm_columns(run: Run, case: Case | None = None) -> list[Column[ArmRow]]:
    """Return the columns of arms.csv; their titles and groups are those of a case's tables."""
    latency = case is None or case.scenario == LATENCY

    def status(row: ArmRow) -> Cell:
        unsteady = unsteady_blocks(row)
        return Cell(
            row.status.word + (f"; no steady state in {counted(unsteady, 'block')}" if unsteady else ""),
            "",
            row.status.reason,
        )

    def unsteady_blocks(row: ArmRow) -> int:
        return sum(not check.steady for check in run.checks.get((row.arm.id, row.case.id), []))

    def per_wall(row: ArmRow, total: float) -> float | None:
        return total / row.wall_ns if row.turns else None

    def start_s(row: ArmRow, part_ns: Callable[[Start], int]) -> float | None:
        return part_ns(row.cost.start) / 1e9 if row.cost.start else None

    def seconds(key: str, title: str, value: Callable[[ArmRow], float | None]) -> Column[ArmRow]:
        return Column(key, value, title if run.starts else "", decimals3, group=COSTS)

    def megabytes(
        key: str, title: str, value: Callable[[ArmRow], float | None], divisor: float = 1e6
    ) -> Column[ArmRow]:
        return Column(key, value, title, lambda size: number(size / divisor if size else None), group=COSTS)

    def images_per_s(row: ArmRow) -> float | None:
        if row.typical_ns is None or row.case.scenario in QUERY_SAMPLES:
            return None
        return run.images_per_turn(row.case) / row.typical_ns * 1e9

    def latency_title(title: str) -> str:
        return title if latency else ""

    return [
        *case_columns(run, lambda row: row.case, lambda row: row.arm),
        Column("", lambda row: row.arm.label, "Arm", numeric=False, group=TIMES),
        Column("", lambda row: row.arm.label, "Arm", numeric=False, group=COSTS),
        Column("", lambda row: row.arm.label, "Arm", numeric=False, group=LIMITS),
        Column("arm", lambda row: row.arm.id),
        Column("stack", lambda row: row.arm.stack),
        Column("variant", lambda row: row.arm.variant),
        Column("settings", lambda row: row.arm.settings),
        Column("replica", lambda row: row.arm.replica),
        Column("status", lambda row: row.status.word),
        Column("", lambda row: row, "Status", status, numeric=False, group=TIMES),
        Column("reason", lambda row: row.status.reason),
        Column("failed_blocks", lambda row: row.status.failed_blocks),
        Column("samples", lambda row: row.samples),
        Column("blocks", lambda row: len({turn.block for turn in row.turns})),
        Column(
            "latency_us",
            lambda row: scaled(row.typical_ns if row.case.scenario == LATENCY else None, 1e3),
            latency_title("Latency, µs"),
            number,
            group=TIMES,
        ),
        Column("mean_latency_us", lambda row: mean(row.latencies_ns) / 1e3 if row.latencies_ns else None),
        Column("p90_us", lambda row: row.percentile_us(90), latency_title("p90"), number, group=TIMES),
        Column("p95_us", lambda row: row.percentile_us(95)),
        Column("p99_us", lambda row: row.percentile_us(99), latency_title("p99"), number, group=TIMES),
        Column("p99.9_us", lambda row: row.percentile_us(99.9), latency_title("p99.9"), number, group=TIMES),
        Column(
            "throughput_images_per_s",
            images_per_s,
            "" if case and case.scenario in QUERY_SAMPLES else "Images/s",
            number4,
            group=TIMES,
        ),
        Column(
            "",
            lambda row: split_text(row.case, run.split(row.arm, row.case)),
            "Threads" if has_own_threads(case) else "",
            group=TIMES,
        ),
        Column(
            "cores_used",
            lambda row: per_wall(row, sum(turn.cpu_ns for turn in row.turns)),
            "Cores used",
            number,
            group=TIMES,
        ),
        Column(
            "involuntary_switches_per_s",
            lambda row: per_wall(row, sum(turn.involuntary_switches for turn in row.turns) * 1e9),
        ),
        Column("stolen_cores", _stolen_cores),
        Column("foreign_cores", lambda row: None if row.foreign_ns is None else row.foreign_ns / row.counted_ns),
        seconds("convert_s", "Convert, s", lambda row: row.cost.convert_ns / 1e9 if row.cost.start else None),
        seconds("import_s", "Import, s", lambda row: start_s(row, lambda start: start.import_ns)),
        seconds("build_s", "Build, s", lambda row: start_s(row, lambda start: start.build_ns)),
        seconds("first_call_s", "First call, s", lambda row: start_s(row, lambda start: start.first_call_ns)),
        seconds("cold_start_s", "Cold start, s", lambda row: scaled(row.cost.cold_start_ns, 1e9)),
        seconds("restart_s", "Restart, s", lambda row: scaled(row.cost.restart_ns, 1e9)),
        Column("break_even_images", lambda row: row.cost.break_even_images),
        megabytes(
            "peak_memory_bytes",
            "Peak memory, MB",
            lambda row: row.cost.memory_bytes or run.trained_memory_bytes(row.arm, row.case),
        ),
        megabytes("installed_bytes", "Environment, GB", lambda row: row.cost.installed_bytes, 1e9),
        megabytes("saved_bytes", "Saved model, MB", lambda row: row.cost.saved_bytes),
        Column("accuracy", lambda row: run.accuracy(row.arm, row.case), "Accuracy", percent, group=TIMES),
        Column("oracle_max_abs_logit_diff", lambda row: row.proof.max_abs_logit_diff if row.proof else None),
        Column("oracle_agreement", lambda row: row.proof.agreement if row.proof else None),
        Column("threads", lambda row: run.split(row.arm, row.case).cores),
        Column("streams", lambda row: run.split(row.arm, row.case).streams),
        Column("threads_read_back", lambda row: row.proof.threads if row.proof else None),
        Column(
            "instructions",
            lambda row: run.instructions(row.arm, row.case) or "",
            latency_title("Instructions"),
            lambda name: name or "not named",
            numeric=False,
            group=TIMES,
        ),
        Column("precision_read_back", lambda row: row.proof.precision if row.proof else None),
        Column("blocks_without_steady_state", unsteady_blocks),
        Column("data", lambda _: run.data),
        Column(
            "gflop_per_s",
            lambda row: row.point.operations_per_s / 1e9 if row.point else None,
            "GFLOP/s",
            number,
            group=LIMITS,
        ),
        Column(
            "limit_gflop_per_s",
            lambda row: row.point.limit.operations / row.point.limit.time_ns if row.point else None,
            "Limit, GFLOP/s",
            number,
            group=LIMITS,
        ),
        Column(
            "limit_is", lambda row: row.point.limit.bound if row.point else "", "Bound by", numeric=False, group=LIMITS
        ),
        Column(
            "share_of_limit",
            lambda row: row.point.share if row.point else None,
            "Share of the limit",
            lambda share: percent(share, 1),
            group=LIMITS,
        ),
        *worker_columns(run, lambda row: row.case),
    ]
