"""A run as a document: every sentence of its report, once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bench.analysis.attribution import attributions
from bench.analysis.costs import tradeoffs
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.scaling import BATCH_SIZE, THREADS, WORKERS, sweeps
from bench.analysis.speedups import speedups, withheld
from bench.analysis.training import trained_arms
from bench.machine.microarchitecture import cpu_label
from bench.records import Ranks
from bench.report.answer.section import answer
from bench.report.arm_table import COSTS, LIMITS, TIMES, ArmRow, arm_columns
from bench.report.claims import claims_section
from bench.report.document import Cell, Column, Document, Paragraph, Plot, Section, table, with_drawn_plots
from bench.report.loadgen import loadgen
from bench.report.tables import (
    ACCURACY,
    CONDITIONS,
    SPEED,
    VERDICTS,
    choice_columns,
    curve_columns,
    rung_columns,
    speedup_columns,
    speedup_emphasis,
    speedup_facets,
    tradeoff_columns,
    trained_columns,
)
from bench.report.text import (
    assigned,
    attribution_sentence,
    case_title,
    counted,
    decimals3,
    level,
    number,
    warnings,
)
from bench.report.trust import checks, commands, machine, method, versions, what_ran, words
from bench.suite.arms import LATENCY, LOADGEN, Split, threads_label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.report.document import Element, Table
    from bench.suite.arms import Case

LATENCY_SENTENCE = {
    AT_REST: """Latency is the median over blocks of the latency at rest. Where speedups are those of the machine as it
        was, so is the latency.""",
    AS_IT_WAS: """Latency is the median over blocks and rounds of the slices' trimmed means (a tenth of the calls is cut
        off at each end).""",
}


def document(
    run: Run, arms: Mapping[Case, Sequence[ArmRow]], plots: AbstractSet[str], missing: Sequence[str] = ()
) -> Document:
    """Return the report of a run; `plots` are the names of those that were drawn, `missing` says why others are."""
    info = run.info
    sections = [
        answer(run, arms),
        words(run),
        _speedups(run),
        loadgen(run),
        _arms(run, arms),
        *(() if run.withdrawal else (_attribution(run), _tradeoffs(run))),
        _distributions(),
        _threads(run),
        _scaling(run),
        *(() if run.withdrawal else (_training(run), _confusion(), claims_section(run))),
        _limits(run, arms),
        _costs(run, arms),
        _withheld(run),
        checks(run),
        what_ran(run),
        method(run),
        machine(run),
        versions(run),
        commands(run),
    ]
    return Document(
        title=f"{info.suite.name}: {info.suite.summary}",
        lead=(
            f"""{cpu_label(info.machine)}, {counted(info.threads, "thread")}, data {info.data.name}, preset
            {info.preset}, started {_moment(info.started)}.{_given_sentence(run)} Valid for this machine and
            this run."""
        ),
        warnings=(*warnings(run), *missing),
        sections=tuple(shown for section in sections if section and (shown := with_drawn_plots(section, plots)).blocks),
    )


def _given_sentence(run: Run) -> str:
    given = run.info.variables.given if run.info.variables else {}
    return f" All arms ran with {assigned(given)}." if given else ""


def _moment(started: str) -> str:
    """Return `2026-11-26 16:15 UTC`, or another text as it is."""
    return re.sub(r"^([\d-]+)T(\d\d:\d\d):[\d.]+\+00:00$", r"\1 \2 UTC", started)


def _by_case(run: Run, blocks: Mapping[Case, Sequence[Element]]) -> list[Section]:
    return [Section(case_title(run, case), tuple(content)) for case, content in blocks.items()]


def _arm_facets(row: ArmRow) -> dict[str, str]:
    return {"stack": row.arm.stack, "case": row.case.label}


def _speedups(run: Run) -> Section:
    what = "epoch time" if run.info.suite.training else "latency"
    if any(case.scenario in LOADGEN for case in run.cases):
        what = "time, which the heading of the column names,"
    interval = (
        f"The interval covers the true ratio with {level(run)} confidence."
        if run.preset.confidence
        else "This preset has too few blocks for intervals."
    )
    explanation = f"""Every comparison of this run. Speedup is the baseline's {what} divided by the arm's: above 1 the
        arm is faster. {interval} Primary comparisons are bold, all others are exploratory. A struck ratio was measured,
        but is withheld. {_rule_sentence(run)}"""
    caption = f"""A dot is the estimate, its line the {level(run)} interval, the grey band the A/A band. Left of 1 the
        arm is slower."""
    tables = {
        case: [_comparisons(run, case, VERDICTS), _comparisons(run, case, CONDITIONS, folded=_CONDITIONS_TITLE)]
        for case in run.cases
    }
    alt = "Speedup and interval of every comparison"
    return Section("Speedups", (Paragraph(explanation), Plot("speedups", alt, caption), *_by_case(run, tables)))


_CONDITIONS_TITLE = "The same comparisons under other conditions"


def _comparisons(run: Run, case: Case, group: str, folded: str = "") -> Table:
    return table(
        [row for row in speedups(run) if row.pair.case == case],
        [column for column in speedup_columns(run, case) if column.group == group],
        speedup_emphasis,
        folded=folded,
        facets=speedup_facets,
    )


def _rule_sentence(run: Run) -> str:
    if not any(case.scenario == LATENCY for case in run.cases):
        return ""
    if run.rule == AT_REST:
        return """Speedups compare the arms while the machine is at rest, which is its fastest speed. The column As it
            was counts all of its speeds, and all blocks. Where too few blocks were at rest, or intervals at rest
            are clearly wider, a speedup is that of the machine as it was."""
    return """Speedups compare the arms on the machine as it was, at all of its speeds. The column At rest compares
        them at its fastest speed."""


def _attribution(run: Run) -> Section | None:
    explanation = """Each step changes one thing. Environment settings stay in effect for all later steps, on both
        sides. The extension's contribution is its speedup over the fastest vanilla arm at the same precision, which
        need not be the step before. Each step is estimated by itself, from its own pairs of processes. So the steps do
        not multiply exactly to the cumulative speedup."""
    sections = []
    for ladder in attributions(run):
        steps = table(
            [(ladder, rung) for rung in ladder.rungs],
            rung_columns(run),
            folded="Steps and their intervals",
            facets=lambda row: {"stack": row[1].arm.stack, "case": row[0].case.label},
        )
        notes = [Paragraph(f"Not measured: {', '.join(ladder.missing)}.")] if ladder.missing else []
        if ladder.rule != run.rule_of(ladder.case):
            text = "Too few blocks for one of these figures were at rest: all of them are for the machine as it was."
            notes.append(Paragraph(text))
        sentence = Paragraph(attribution_sentence(ladder), "plain")
        sections.append(Section(f"{ladder.name}: {case_title(run, ladder.case)}", (sentence, steps, *notes)))
    if not sections:
        return None
    caption = """A bar is what one step adds; it ends at the cumulative speedup, whose interval is the thin line. The
        numbers are the step's own factor and the cumulative speedup. Colour is the step's own result: "no clear
        difference" is a step whose interval includes 1. The extension's bar starts at the fastest vanilla arm."""
    plot = Plot("attribution", "What each step adds to the speed of the default settings", caption)
    return Section("Where the gain comes from", (Paragraph(explanation), plot, *sections))


def _training(run: Run) -> Section | None:
    training = run.info.suite.training
    tables = {
        case: [
            table(
                [(case, row) for row in rows],
                [column for column in trained_columns(run) if column.group == group],
                lambda pair: "replica" if pair[1].arm.replica else "",
                facets=lambda pair: {"stack": pair[1].arm.stack, "case": pair[0].label},
            )
            for group in (SPEED, ACCURACY)
        ]
        for case in run.cases
        if (rows := trained_arms(run, case))
    }
    if not training or not tables:
        return None
    recipe = training.recipe
    explanation = f"""Recipe {recipe.name} ({recipe.optimizer}, learning rate {recipe.learning_rate}, schedule
        {recipe.schedule}) for {training.epochs} epochs of {training.images} images. Epoch: median over blocks
        without the first epoch of each process, which has its own column. Waiting: share of the epochs' time spent
        waiting for the next batch. Time to an accuracy: total training time until the test accuracy is first
        reached; median over the seeds that reach it. Accuracy: after {training.epochs} epochs, mean over seeds,
        with the standard deviation (sd) between them. The difference is paired by seed, with Student's interval at
        95 %."""
    caption = (
        "A point is the end of an epoch. Higher and further left is better. Dotted lines are the accuracies to reach."
    )
    plot = Plot("training", "Test accuracy of each arm against its training time", caption, "log")
    return Section("Training", (Paragraph(explanation), plot, *_by_case(run, tables)))


def _threads(run: Run) -> Section | None:
    """Return the times that each arm's threads were chosen by; None unless the run has cases with best threads."""
    tables = {}
    for case in run.cases:
        rows = [(arm, choice) for arm in run.participants(case) if (choice := run.choices.get((arm.id, case.id)))]
        splits = dict.fromkeys(Split(trial.streams, trial.threads) for _, choice in rows for trial in choice.trials)
        if rows:
            tables[case] = [table(rows, choice_columns(case, tuple(splits)))]
    if not tables:
        return None
    explanation = f"""Each arm uses the number of threads at which it was fastest before the blocks. All arms were
        searched alike: every number of threads had processes of its own, which took turns. The time of a number is
        the mean over processes of the median over rounds. For latency this table has µs per batch. For throughput it
        has images/s, and 8 x 2 is 8 streams with 2 threads each: processes, or streams of an asynchronous process.
        These times only choose: the blocks have fresh processes, and only those count for speedups. In Limits of the
        machine an arm is compared with the limits of {threads_label(run.info.threads)}."""
    return Section("Threads", (Paragraph(explanation), *_by_case(run, tables)))


def _scaling(run: Run) -> Section | None:
    titles = {BATCH_SIZE: "By batch size", THREADS: "By threads", WORKERS: "By workers"}
    sections = [
        Section(
            f"{titles[sweep.over]}: {sweep.label}",
            (table(sweep.curves, curve_columns(sweep), facets=lambda curve: {"stack": curve.arm.stack}),),
        )
        for sweep in sweeps(run)
    ]
    explanation = "Median throughput over blocks in images/s, with the ratio to the first column (paired by block)."
    alt = "Throughput by batch size, and time by number of threads"
    plot = Plot("scaling", alt, "Medians over blocks.", "linear")
    if any(case.workers for case in run.cases):
        return _workers(run, sections)
    return Section("Scaling", (Paragraph(explanation), plot, *sections)) if sections else None


def _workers(run: Run, sections: Sequence[Section]) -> Section | None:
    explanation = f"""Workers are processes with {counted(run.info.threads, "core")} each that train one network
        together, with the data-parallel engine of their framework. The table has the median throughput over blocks in
        images/s. In parentheses is the efficiency: the throughput of N workers divided by N times that of one, paired
        by block{f", with its {level(run)} interval" if run.preset.confidence else ""}. In strong scaling, all workers
        together have one worker's batch. In weak scaling, each of them has. A struck throughput must not be used: its
        footnote says why."""
    engines = {f"{record.arm}: {record.engine}" for record in run.of(Ranks) if record.engine and "@" not in record.arm}
    # Written as address%interface.
    listening = sorted({address.replace("%", " on ") for record in run.of(Ranks) for address in record.listening})
    wire = f"""They communicated on the network interface {run.info.protocol.interface}. {"; ".join(sorted(engines))}.
        They accepted connections at {", ".join(listening) or "no address"}."""
    caption = """The dashed line is ideal: N times the throughput of one worker, and an efficiency of 100 %. Higher is
        better. Medians over blocks."""
    plot = Plot("scaling", "Throughput and efficiency by number of workers", caption)
    return Section("Scaling", (Paragraph(explanation), Paragraph(wire), plot, *sections)) if sections else None


def _tradeoffs(run: Run) -> Section | None:
    tables = {
        case: [
            table(
                [(case, row) for row in rows],
                tradeoff_columns(run, rows[0].against.label),
                facets=lambda pair: {"stack": pair[1].arm.stack, "case": pair[0].label},
            )
        ]
        for case in run.cases
        if (rows := tradeoffs(run, case))
    }
    explanation = """This table compares different precisions, measured in the same blocks; no speedup is claimed from
        it. Relative accuracy is the accuracy divided by that of fp32, and should be at least 99 %. Lost and won count
        the images that only fp32, or only this arm, classifies correctly; p is McNemar's exact p value."""
    if not tables:
        return None
    caption = """Speed and accuracy of the same arms, fastest first. Right is better in both. The limit, 99 % of the
        accuracy of fp32, is a line where it is near."""
    plot = Plot("tradeoffs", "Accuracy of each arm beside its speed", caption)
    return Section("Accuracy against speed", (Paragraph(explanation), plot, *_by_case(run, tables)))


def _confusion() -> Section:
    caption = """Arms with the same predictions share a matrix. The diagonal counts the right predictions; the darker
        another field, the more errors."""
    return Section("Confusion matrices", (Plot("confusion", "Which class is taken for which, by each arm", caption),))


def _grouped(run: Run, case: Case, group: str) -> list[Column[ArmRow]]:
    return [column for column in arm_columns(run, case) if column.group == group]


def _arms(run: Run, arms: Mapping[Case, Sequence[ArmRow]]) -> Section:
    explanation = (
        """An arm is one process with all threads; the processes of all arms run throughout the block. The accuracy is
        the mean over seeds."""
        if run.info.suite.training
        else f"""{LATENCY_SENTENCE[run.rule]} Percentiles are of all samples, and left out if there are too few. For
        throughput every core is busy: an arm is one process per stream, or one asynchronous process with all streams.
        Without best threads, each stream has one thread."""
    )
    if any(case.scenario in LOADGEN for case in run.cases):
        explanation = "An arm is one process with all threads, unless its name says otherwise. Times are under LoadGen."
    tables = {
        case: [
            table(
                rows,
                _grouped(run, case, TIMES),
                lambda row: "replica" if row.arm.replica else "",
                facets=_arm_facets,
            )
        ]
        for case, rows in arms.items()
    }
    return Section("Absolute times", (Paragraph(explanation), *_by_case(run, tables)))


def _distributions() -> Section:
    latencies = Plot(
        "latencies",
        "Distribution of each arm's latencies",
        """The shape is the distribution of all calls, on one scale for the case. The tall line is the median, which is
        also written at the end. The short line is p99. The axis ends at the 99.5th percentile of the slowest arm.""",
        "linear",
    )
    ratios = Plot(
        "blocks",
        "Ratio of every block of each comparison",
        """A dot is the ratio of one block, from the first block at the top of a row to the last at its bottom: a slope
        would be a drift. The number is the estimate over all blocks.""",
    )
    parts = (Section("Latencies of all calls", (latencies,)), Section("Ratios of all blocks", (ratios,)))
    return Section("Distributions", parts)


def _limits(run: Run, arms: Mapping[Case, Sequence[ArmRow]]) -> Section | None:
    explanation = """The limit of a case is the longer of two times. The first is the time of its multiply-adds at the
        rate of the fastest matrix product that was measured here at the arm's precision. The second is the time of
        moving its parameters, inputs and logits at the bandwidth of a working set of that size. The gap to 100 % is
        roughly the remaining headroom. Implementations that use fewer multiply-adds, or read more than they write,
        can exceed it. Operations of int8 are integer operations: read GFLOP/s as GOP/s."""
    tables = {
        case: [table([row for row in rows if row.point], _grouped(run, case, LIMITS), facets=_arm_facets)]
        for case, rows in arms.items()
        if any(row.point for row in rows)
    }
    if not tables:
        return None
    caption = """Horizontal lines are the fastest matrix products, dashes the memory traffic of the smallest and the
        largest working set. Higher is better."""
    plot = Plot("roofline", "Rate of each arm below the limits of the machine", caption)
    return Section("Limits of the machine", (Paragraph(explanation), plot, *_by_case(run, tables)))


def _costs(run: Run, arms: Mapping[Case, Sequence[ArmRow]]) -> Section | None:
    starts = """Cold start is that of a process alone on the machine, with empty compile caches and its files in
        the page cache: convert (done once, and kept), import, build and first call for the first of the cases.
        Restart is import, build and first call with filled caches."""
    sizes = """Memory is the peak of all processes of an arm together. Environment is the size of the whole environment:
        that of the stock stacks holds both PyTorch and TensorFlow, that of OpenVINO also what models are converted
        with."""
    break_even = """Break-even is the number of images after which a faster arm makes up for a longer cold start than
        that of its first baseline."""
    no_starts = f"""Preset {run.preset.name} measures no cold starts. Its peak memory is that with all cases that a
        process serves."""
    text = f"{starts} {sizes} {break_even}" if run.starts else f"{sizes} {no_starts}"
    plot = Plot("costs", "Parts of each arm's cold start", "Shorter is better. One start of each arm was measured.")
    explanation = (Paragraph(text), plot) if run.starts else (Paragraph(text),)
    sections = []
    for group in dict.fromkeys(case.group for case in run.cases):
        cases = [case for case in run.cases if case.group == group]
        rows = [
            row
            for row in arms[cases[0]]
            if not row.arm.replica and (row.cost.start if run.starts else row.cost.memory_bytes)
        ]
        if rows:
            costs = table(rows, _grouped(run, cases[0], COSTS), facets=lambda row: {"stack": row.arm.stack})
            sections.append(Section(", ".join(group), (costs, *_break_even(arms, cases))))
    return Section("Costs", (*explanation, *sections)) if sections else None


def _withheld(run: Run) -> Section | None:
    rows = withheld(run)
    columns: list[Column[Speedup]] = [
        Column("", lambda row: row.pair.arm.label, "Arm", numeric=False),
        Column("", lambda row: row.pair.baseline.label, "Baseline", numeric=False),
        Column("", lambda row: row.pair.case.label, "Case", numeric=False),
        Column("", lambda row: Cell(decimals3(row.speedup), struck=True), "Ratio, not to be used", lambda cell: cell),
        Column("", lambda row: row.verdict.reason, "Why it is withheld", numeric=False),
    ]
    explanation = "These comparisons were measured, but a condition for any claim is not met. Do not use their ratios."
    withdrawn = table(rows, columns, facets=speedup_facets)
    return Section("Withheld results", (Paragraph(explanation), withdrawn)) if rows else None


def _break_even(arms: Mapping[Case, Sequence[ArmRow]], cases: Sequence[Case]) -> list[Table]:
    """Return the table of the images after which a longer cold start is made up for, with a column for each case."""
    images = {(row.arm, case): row.cost.break_even_images for case in cases for row in arms[case]}
    compared = [row for row in arms[cases[0]] if any(images.get((row.arm, case)) is not None for case in cases)]

    def on(case: Case) -> Column[ArmRow]:
        return Column(
            "", lambda row: images.get((row.arm, case)), f"Break-even, images: batch {case.batch_size}", number
        )

    columns = [Column[ArmRow]("", lambda row: row.arm.label, "Arm", numeric=False), *map(on, cases)]
    return [table(compared, columns, facets=lambda row: {"stack": row.arm.stack})] if compared else []
