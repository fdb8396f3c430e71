"""A run as pandas frames. docs/python.md describes every column."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bench.analysis.latency import AS_IT_WAS
from bench.analysis.run import Run
from bench.analysis.speedups import speedups
from bench.records import Slice
from bench.report.arm_table import arm_columns, arm_rows
from bench.report.tables import speedup_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from bench.records import Turn
    from bench.report.document import Column
    from bench.run_info import RunInfo
    from bench.suite.arms import Arm, Case

# The data types of columns; missing values are allowed in all of them. Columns that are not listed are float64.
TEXT, COUNT, FLAG, NUMBER, CATEGORY = "str", "Int64", "boolean", "float64", "category"
TEXTS = frozenset({
    "suite", "model", "scenario", "precision", "arm", "baseline", "stack", "variant", "settings", "status", "reason",
    "precision_read_back", "instructions", "data", "limit_is", "baseline_stack", "baseline_variant", "verdict",
    "family", "matched", "rule",
})  # fmt: skip
COUNTS = frozenset({
    "batch_size", "threads", "baseline_threads", "streams", "threads_read_back", "block", "blocks", "round",
    "position", "index", "samples",
    "failed_blocks", "blocks_without_steady_state", "peak_memory_bytes", "installed_bytes", "saved_bytes",
    "involuntary_switches", "blocks_at_rest",
})  # fmt: skip
FLAGS = frozenset({"replica", "disturbed", "at_rest"})
# In frames with a row for each turn, call or block, so that they stay small.
CATEGORIES = frozenset({"case", "arm", "baseline"})
FRAMES = ("arms", "speedups", "slices", "samples", "blocks", "ratios")


@dataclass(frozen=True)
class Frames:
    """The results of a run as tidy frames, each made when it is first used, and the run's description."""

    run: Run

    @property
    def info(self) -> RunInfo:
        return self.run.info

    @cached_property
    def arms(self) -> pd.DataFrame:
        """A row for each arm and case: times, costs, accuracy; the columns of arms.csv."""
        rows = [row for rows in arm_rows(self.run).values() for row in rows]
        return _from_columns(rows, arm_columns(self.run))

    @cached_property
    def speedups(self) -> pd.DataFrame:
        """A row for each comparison, with its interval and verdict; the columns of speedups.csv."""
        return _from_columns(speedups(self.run), speedup_columns(self.run))

    @cached_property
    def slices(self) -> pd.DataFrame:
        """A row for each slice of inference, or epoch of training, of an arm."""
        disturbed = self.run.disturbed_rounds
        rows = (
            {
                "case": case.id,
                "arm": arm.id,
                "block": turn.block,
                "round": turn.round,
                "position": turn.position,
                "samples": len(turn.samples_ns) if isinstance(turn, Slice) else None,
                "latency_us": _us(self.run.turn_latencies_ns(arm, case).get((turn.block, turn.round))),
                "wall_us": turn.wall_ns / 1e3,
                "cpu_us": turn.cpu_ns / 1e3,
                "involuntary_switches": turn.involuntary_switches,
                "steal_us": _us(turn.conditions.steal_ns),
                "foreign_us": _us(turn.conditions.foreign_ns),
                "disturbed": (case.id, turn.block, turn.round) in disturbed,
            }
            for arm, case, turn in self._turns()
        )
        return _typed(rows, SLICE_COLUMNS)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """A row for each timed call of inference."""
        rows = [
            (case.id, arm.id, turn.block, turn.round, index, sample / 1e3)
            for arm, case, turn in self._turns()
            if isinstance(turn, Slice)
            for index, sample in enumerate(turn.samples_ns)
        ]
        # By column, because a run has a million samples.
        columns = zip(*rows, strict=True) if rows else ((),) * len(SAMPLE_COLUMNS)
        return _frame(dict(zip(SAMPLE_COLUMNS, columns, strict=True)), small=True)

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """A row for each arm, case and block: one process."""
        rows = []
        for case in self.run.cases:
            at_rest = self.run.blocks_at_rest(case)
            for arm in self.run.participants(case):
                latencies = self.run.block_latencies_ns(arm, case)
                rows += [
                    {
                        "case": case.id,
                        "arm": arm.id,
                        "block": block,
                        "latency_us": _us(latencies.get(block)),
                        "latency_as_it_was_us": time_ns / 1e3,
                        "at_rest": at_rest.get(block),
                    }
                    for block, time_ns in self.run.block_latencies_ns(arm, case, AS_IT_WAS).items()
                ]
        return _typed(rows, BLOCK_COLUMNS)

    @cached_property
    def ratios(self) -> pd.DataFrame:
        """A row for each comparison and block: the unit of all intervals."""
        rows = (
            {
                "case": row.pair.case.id,
                "arm": row.pair.arm.id,
                "baseline": row.pair.baseline.id,
                "block": block,
                "log_ratio": log_ratio,
            }
            for row in speedups(self.run)
            for block, log_ratio in self.run.log_ratios(row.pair, row.rule).items()
        )
        return _typed(rows, RATIO_COLUMNS)

    def _turns(self) -> Iterator[tuple[Arm, Case, Turn]]:
        for case in self.run.cases:
            for arm in self.run.participants(case):
                for turn in self.run.turns.get((arm.id, case.id), ()):
                    yield arm, case, turn


SLICE_COLUMNS = (
    "case", "arm", "block", "round", "position", "samples", "latency_us", "wall_us", "cpu_us", "involuntary_switches",
    "steal_us", "foreign_us", "disturbed",
)  # fmt: skip
SAMPLE_COLUMNS = ("case", "arm", "block", "round", "index", "sample_us")
BLOCK_COLUMNS = ("case", "arm", "block", "latency_us", "latency_as_it_was_us", "at_rest")
RATIO_COLUMNS = ("case", "arm", "baseline", "block", "log_ratio")


def load_frames(folder: Path) -> Frames:
    """Return the frames of the run in `folder`; raises UserError if there is none or if it is damaged."""
    return Frames(Run(folder))


def to_parquet(run: Run) -> dict[str, bytes]:
    """Return a file for each frame; needs pyarrow."""
    frames = Frames(run)
    return {f"{name}.parquet": getattr(frames, name).to_parquet(None, index=False) for name in FRAMES}


def column_type(name: str, *, small: bool) -> str:
    """Return the data type of a column; in a `small` frame names are categories."""
    if small and name in CATEGORIES:
        return CATEGORY
    return TEXT if name in TEXTS else COUNT if name in COUNTS else FLAG if name in FLAGS else NUMBER


def _from_columns(rows: Sequence[Any], columns: Sequence[Column[Any]]) -> pd.DataFrame:
    content = {column.key: [column.value(row) for row in rows] for column in columns if column.key}
    return _frame(content, small=False)


def _typed(rows: Any, columns: Sequence[str]) -> pd.DataFrame:
    content: Mapping[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name in columns:
            content[name].append(row[name])
    return _frame(content, small=True)


def _frame(content: Mapping[str, Sequence[Any]], *, small: bool) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {name: pd.Series(values, dtype=column_type(name, small=small)) for name, values in content.items()}
    )


def _us(time_ns: float | None) -> float | None:
    return None if time_ns is None else time_ns / 1e3
