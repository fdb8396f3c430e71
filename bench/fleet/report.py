"""One report over all machines of a fleet: each machine's speedups with their intervals, side by side."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from bench.analysis.run import Run
from bench.analysis.speedups import speedups
from bench.analysis.stats import Interval, student_interval
from bench.compare.matching import notes, other_machine
from bench.fleet.state import DAMAGED, MEASURED, NODE_RUNS
from bench.machine.microarchitecture import cpu_label, microarchitecture
from bench.report.document import Bullets, Cell, Column, Document, Heading, Paragraph, Row, Section, Table, table
from bench.report.tables import high, low
from bench.report.text import counted, interval_text, ratio
from models.data import SYNTHETIC_WARNING
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.analysis.speedups import Speedup
    from bench.fleet.state import FleetInfo, NodeEvent
    from bench.run_info import RunInfo

# Fewer machines get no number over all of them. The confidence of its interval.
LEAST_MACHINES, POOLED_CONFIDENCE = 5, 0.95


@dataclass(frozen=True)
class FleetSpeedup:
    """A comparison on one node."""

    node: str
    machine: str
    architecture: str
    case: str
    row: Speedup


@dataclass(frozen=True)
class NodeResult:
    """A node, the label of its CPU, its comparisons, and how its run differs from that of the first node."""

    event: NodeEvent
    cpu: str = ""
    data: str = ""
    speedups: tuple[FleetSpeedup, ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def is_measured(self) -> bool:
        return self.event.status in MEASURED


@dataclass(frozen=True)
class Description:
    """What the other runs are compared with, without the journal."""

    info: RunInfo
    data: str


@dataclass(frozen=True)
class Pooled:
    """The geometric mean of a speedup over several machines, with the interval of a further machine's mean."""

    machines: int
    speedup: float
    interval: Interval


def node_results(
    folder: Path, events: Sequence[NodeEvent], refusing_damage: Callable[[Path], AbstractContextManager[None]]
) -> list[NodeResult]:
    """Read the runs of a fleet, one after the other: the journals of many need much memory.

    Only runs that ended by themselves have numbers. A run that can't be read makes its node a damaged one.
    """
    results, first = [], None
    for event in sorted(events, key=lambda event: event.node):
        path = folder / NODE_RUNS / event.node
        if event.status not in MEASURED:
            results.append(NodeResult(event))
            continue
        try:
            with refusing_damage(path):
                run = Run(path)
                first = first or Description(run.info, run.data)
                results.append(_result(event, run, first))
        except UserError as error:
            results.append(NodeResult(replace(event, status=DAMAGED, reason=str(error))))
    return results


def _result(event: NodeEvent, run: Run, first: Description) -> NodeResult:
    machine = run.info.machine
    architecture = microarchitecture(machine) or machine.cpu
    rows = tuple(
        FleetSpeedup(event.node, event.machine or event.node, architecture, row.pair.case.label, row)
        for row in speedups(run)
        if not row.pair.arm.replica
    )
    differences = () if run.info is first.info else (*other_machine(first, run), *notes(first, run))
    return NodeResult(event, cpu_label(machine), run.data, rows, differences)


def pooled(rows: Sequence[FleetSpeedup]) -> Pooled | None:
    """Return the mean over machines of one comparison, or None for fewer than LEAST_MACHINES.

    The unit is the machine: nodes on one machine count once, by their mean.
    """
    values: dict[str, list[float]] = {}
    for each in rows:
        if each.row.estimate and each.row.verdict.is_sound:
            values.setdefault(each.machine, []).append(each.row.estimate.log_speedup)
    if len(values) < LEAST_MACHINES:
        return None
    means = [fmean(logs) for logs in values.values()]
    interval = student_interval(means, POOLED_CONFIDENCE)
    return Pooled(len(means), math.exp(fmean(means)), Interval(math.exp(interval.low), math.exp(interval.high)))


def fleet_document(info: FleetInfo, results: Sequence[NodeResult]) -> Document:
    measured = [result for result in results if result.is_measured]
    machines = {result.event.machine or result.event.node for result in measured}
    every = [each for result in measured for each in result.speedups]
    rows = [each for each in every if each.row.primary] or every
    cases = dict.fromkeys(each.case for each in rows)
    return Document(
        title=f"Fleet {info.name}: {counted(len(measured), 'node')} measured",
        lead=f"bench run {' '.join(info.arguments)}; driver {info.driver}, started {info.started}.",
        warnings=tuple(_warnings(results)),
        sections=(
            Section("In short", (Bullets(tuple(fleet_headlines(results))),)),
            *(Section(case, tuple(_groups([each for each in rows if each.case == case]))) for case in cases),
            Section("Nodes", (table(results, NODE_COLUMNS),)),
            *_differences(measured),
            Section("How machines are compared", (Bullets(_method(len(machines))),)),
        ),
    )


def _warnings(results: Sequence[NodeResult]) -> Iterator[str]:
    if any(result.data == "synthetic" for result in results):
        yield SYNTHETIC_WARNING
    nodes: dict[str, list[str]] = {}
    for result in results:
        if result.event.machine:
            nodes.setdefault(result.event.machine, []).append(result.event.node)
    for names in nodes.values():
        if len(names) > 1:
            yield f"{', '.join(names)} run on one machine: they count as one."
    notes_ = dict.fromkeys(f"{result.event.node}: {result.event.note}" for result in results if result.event.note)
    yield from notes_


def fleet_headlines(results: Sequence[NodeResult]) -> Iterator[str]:
    """Yield how many nodes were measured, a sentence for each primary comparison, and what became of the others."""
    counts = Counter(result.event.status for result in results)
    yield "Nodes: " + ", ".join(f"{count} {status}" for status, count in counts.items()) + "."
    rows = [each for result in results for each in result.speedups if each.row.primary]
    for key in dict.fromkeys((each.architecture, each.case, each.row.pair.arm.label) for each in rows):
        architecture, case, label = key
        same = [each for each in rows if (each.architecture, each.case, each.row.pair.arm.label) == key]
        words = Counter(each.row.verdict.word for each in same)
        said = ", ".join(f"{word} on {count}" for word, count in words.items())
        mean = pooled(same)
        over = f"; {pooled_text(mean)} over {mean.machines} machines" if mean else ""
        reasons = list(dict.fromkeys(each.row.verdict.reason for each in same if not each.row.verdict.is_sound))
        others = f", and {counted(len(reasons) - 1, 'other reason')}" if len(reasons) > 1 else ""
        why = f" ({reasons[0]}{others})" if reasons else ""
        yield f"{label} on {architecture} ({case}): {said}{over}{why}."
    for result in results:
        if not result.is_measured:
            yield f"{result.event.node}: {result.event.status}: {result.event.reason or 'it did not end'}."


def pooled_text(mean: Pooled) -> str:
    return f"{mean.speedup:.3f} ({interval_text(mean.interval)})"


def _groups(rows: Sequence[FleetSpeedup]) -> Iterator[Section]:
    """Yield a table for each microarchitecture: a row for each node, a column for each arm, and their mean."""
    for architecture in sorted({each.architecture for each in rows}):
        group = [each for each in rows if each.architecture == architecture]
        labels = list(dict.fromkeys(_comparison(each) for each in group))
        lines = []
        for node in dict.fromkeys(each.node for each in group):
            found = {_comparison(each): each for each in group if each.node == node}
            lines.append(Row((Cell(node), *(_cell(found.get(label)) for label in labels))))
        means = [pooled([each for each in group if _comparison(each) == label]) for label in labels]
        if any(means):
            cells = (Cell(pooled_text(mean) if mean else "-") for mean in means)
            lines.append(Row((Cell("mean over machines"), *cells), "primary"))
        headings = (Heading("Node"), *(Heading(label, numeric=True) for label in labels))
        yield Section(architecture, (Table(headings, tuple(lines)),))


def _comparison(each: FleetSpeedup) -> str:
    """Return what tables call a comparison; the fastest baseline, of a primary one, may differ between machines."""
    pair = each.row.pair
    return pair.arm.label if each.row.primary else f"{pair.arm.label} / {pair.baseline.label}"


def _cell(each: FleetSpeedup | None) -> Cell:
    if each is None:
        return Cell("-")
    verdict = each.row.verdict
    over = f", over {each.row.pair.baseline.label}" if each.row.primary else ""
    if not each.row.estimate or not verdict.is_sound:
        return Cell(verdict.word, verdict.word, verdict.reason)
    return Cell(ratio(each.row.estimate), verdict.word, detail=f"{verdict.word}{over}")


def _differences(measured: Sequence[NodeResult]) -> Iterator[Section]:
    lines = [f"{result.event.node}: {line}" for result in measured for line in result.differences]
    if lines:
        first = measured[0].event.node
        yield Section("What differs", (Paragraph(f"Compared with {first}."), Bullets(tuple(lines))))


def _method(machines: int) -> tuple[str, ...]:
    fewer = f" This fleet has {counted(machines, 'machine')}." if machines < LEAST_MACHINES else ""
    return (
        """Every node measures all of its arms interleaved, by the same protocol. A speedup compares arms of one node.
        Times of different nodes are never divided by each other.""",
        f"""A number over machines needs {LEAST_MACHINES} machines of one microarchitecture. It is the geometric mean,
        with Student's interval; the unit is the machine.{fewer}""",
        """Only nodes whose run has ended by itself have numbers. No node is started again unless somebody asks for it;
        Starts counts how often that was.""",
    )


NODE_COLUMNS: tuple[Column[NodeResult], ...] = (
    Column("node", lambda result: result.event.node, "Node", numeric=False, brief=True),
    Column("address", lambda result: result.event.address),
    Column("status", lambda result: result.event.status, "Status", numeric=False, brief=True),
    Column("cpu", lambda result: result.cpu, "CPU", numeric=False),
    Column("machine", lambda result: result.event.machine, "Machine", numeric=False),
    Column("starts", lambda result: result.event.starts, "Starts", brief=True),
    Column("reason", lambda result: result.event.reason, "Reason", numeric=False, brief=True),
    Column("note", lambda result: result.event.note),
    Column("at", lambda result: result.event.at),
)
SPEEDUP_COLUMNS: tuple[Column[FleetSpeedup], ...] = (
    Column("node", lambda each: each.node),
    Column("machine", lambda each: each.machine),
    Column("microarchitecture", lambda each: each.architecture),
    Column("model", lambda each: each.row.pair.case.model),
    Column("scenario", lambda each: each.row.pair.case.scenario),
    Column("batch_size", lambda each: each.row.pair.case.batch_size),
    Column("arm", lambda each: each.row.pair.arm.id),
    Column("baseline", lambda each: each.row.pair.baseline.id),
    Column("primary", lambda each: each.row.primary),
    Column("speedup", lambda each: each.row.speedup),
    Column("ci_low", lambda each: low(each.row.interval)),
    Column("ci_high", lambda each: high(each.row.interval)),
    Column("blocks", lambda each: each.row.estimate.blocks if each.row.estimate else None),
    Column("verdict", lambda each: each.row.verdict.word),
    Column("reason", lambda each: each.row.verdict.reason),
)
