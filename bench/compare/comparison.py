"""A comparison of runs as a document: every sentence of it, once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.analysis.gates import FAILED, SLOWER, UNRESOLVED, WITHDRAWN, WITHHELD
from bench.compare.changes import GATE_LEVEL, MARGIN, UNMATCHED, USUAL_FREEDOM
from bench.machine.microarchitecture import cpu_label
from bench.report.document import Bullets, Cell, Code, Column, Document, Paragraph, Section, table
from bench.report.tables import high, low, scaled
from bench.report.text import counted, interval_text, number, percent
from bench.suite.arms import TRAINING
from models.data import SYNTHETIC_WARNING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bench.analysis.run import Run
    from bench.analysis.stats import Interval
    from bench.compare.changes import Change, ChangeRow, Comparison
    from bench.report.document import Element, Text
    from bench.suite.arms import Case

NOT_INTERLEAVED = (
    "The runs are not interleaved: a drift of the machine between them is part of every change of an arm alone. Net "
    "changes are relative to a control of the same run, which removes what drifted for both."
)


def comparison_document(
    comparisons: Sequence[Comparison], names: Mapping[Run, str], threshold: float | None
) -> Document:
    """Return the document; `names` are the runs' names in it."""
    before = comparisons[0].before
    return Document(
        title=f"{' and '.join(names[each.after] for each in comparisons)} compared with {names[before]}",
        lead=" ".join(f"{names[run]}: {_origin(run)}." for run in (before, *(each.after for each in comparisons))),
        warnings=tuple(warning for each in comparisons for warning in comparison_warnings(each, names)),
        sections=(
            Section("In short", (Bullets(tuple(headlines(comparisons, names, threshold))),)),
            *(_section(each, names) for each in comparisons),
            _method(threshold),
        ),
    )


def _origin(run: Run) -> str:
    info = run.info
    return f"suite {info.suite.name}, preset {info.preset}, started {info.started}, {cpu_label(info.machine)}"


def comparison_warnings(comparison: Comparison, names: Mapping[Run, str]) -> Iterator[str]:
    """Yield what the reader must know before any number."""
    pair = f"{names[comparison.before]} and {names[comparison.after]}"
    if comparison.other_machine:
        yield (
            f"{pair} are from DIFFERENT MACHINES ({'; '.join(comparison.other_machine)}): a net change tells how an "
            "arm's speed relative to the control differs between them. Nothing of it is gated."
        )
    if "synthetic" in (comparison.before.data, comparison.after.data):
        yield SYNTHETIC_WARNING
    for word, what in (
        (FAILED, "failed in one of the runs"),
        (WITHHELD, "withheld"),
        (WITHDRAWN, "withdrawn"),
        (UNMATCHED, "not comparable"),
    ):
        if labels := [f"{row.arm.label} ({row.case.label})" for row in comparison.rows if row.verdict.word == word]:
            yield f"{pair}: {what}: {', '.join(labels)}"


def headlines(comparisons: Sequence[Comparison], names: Mapping[Run, str], threshold: float | None) -> Iterator[str]:
    """Yield the answer: the regressions, or which arms became slower, and what the comparison could not tell."""
    for comparison in comparisons:
        after, judged = names[comparison.after], [row for row in comparison.rows if row.net]
        if threshold is None:
            slower = [row for row in comparison.rows if row.verdict.word == SLOWER]
            yield from (change_sentence(row, after) for row in slower)
            if not slower:
                unknown = sum(row.verdict.word == UNRESOLVED for row in judged)
                rest = f" {unknown} {'is' if unknown == 1 else 'are'} unresolved." if unknown else ""
                yield f"{after}: none of {counted(len(judged), 'row')} is shown to be slower.{rest}"
            continue
        yield from (f"REGRESSION: {change_sentence(row, after)}" for row in comparison.regressions)
        open_rows = [row for row in comparison.rows if not row.ruled_out and not row.regression]
        limit, sure = f"{threshold * 100:g} %", sum(row.ruled_out for row in comparison.rows)
        yield (
            f"{after}: {counted(len(comparison.regressions), 'regression')} by more than {limit}. Of "
            f"{counted(len(comparison.rows), 'row')}, {sure} rule out one, {len(open_rows)} can't tell."
        )


def change_sentence(row: ChangeRow, after: str) -> str:
    """Return the sentence on an arm with a net change, with its interval and its control."""
    control = row.control.label if row.control else "-"
    size = change_text(row.net)
    return (
        f"{row.arm.label} is {row.verdict.word} in {after}: {size} net of {control}, {alone_text(row.alone)} alone "
        f"({row.case.label})."
    )


def change_text(change: Change | None) -> str:
    if change is None:
        return "-"
    interval = change.ratio_interval
    return f"{change.ratio:.3f}x" + (f" ({interval_text(interval)})" if interval else "")


def alone_text(alone: float | None) -> str:
    return "-" if alone is None else f"{math.exp(alone):.3f}x"


def _section(comparison: Comparison, names: Mapping[Run, str]) -> Section:
    blocks: list[Element] = [Paragraph(NOT_INTERLEAVED), Paragraph(run_effect_text(comparison))]
    cases = list(dict.fromkeys(row.case for row in comparison.rows))
    for case in cases:
        rows = [row for row in comparison.rows if row.case == case]
        changes = table(rows, change_columns(comparison, names, case), change_emphasis)
        blocks.append(Section(case.label, (changes, Paragraph(drift(rows)))))
    if comparison.missing:
        blocks.append(Section("In one run only", (Bullets(comparison.missing),)))
    if comparison.notes:
        blocks.append(Section("What else differs", (Bullets(comparison.notes),)))
    return Section(f"{names[comparison.after]} compared with {names[comparison.before]}", tuple(blocks))


def drift(rows: Sequence[ChangeRow]) -> str:
    """Return the sentence on how much the controls of a case changed by themselves."""
    controls = {row.control for row in rows}
    drifts = [f"{row.arm.label} {alone_text(row.alone)}" for row in rows if row.arm in controls]
    if not drifts:
        return "No vanilla arm ran the same software in both runs: the drift of the machine is not known."
    return f"Drift of the machine, as its controls show it: {', '.join(drifts)}."


def run_effect_text(comparison: Comparison) -> str:
    """Return the sentence on how much a run favours single arms."""
    effect = comparison.effect
    if effect.freedom == USUAL_FREEDOM:
        return "No arms that did not change tell how much a run favours single arms."
    return (
        f"Arms that did not change differ between the two runs by {percent(effect.deviation, 1)} (standard deviation, "
        f"{effect.freedom} degrees of freedom, without the common drift). The intervals include that."
    )


def change_emphasis(row: ChangeRow) -> str:
    if row.verdict.word == WITHDRAWN:
        return "withdrawn"
    return "primary" if row.regression else ""


def change_columns(
    comparison: Comparison, names: Mapping[Run, str], case: Case | None = None
) -> list[Column[ChangeRow]]:
    """Return the columns of comparison.csv; their titles are those of a case's table."""
    unit, divisor = ("Epoch, s", 1e9) if case and case.scenario == TRAINING else ("Latency, µs", 1e3)
    before, after = comparison.before, comparison.after

    def verdict(row: ChangeRow) -> Cell:
        return Cell(_word(row), row.verdict.word, row.verdict.reason)

    def brief_verdict(row: ChangeRow) -> Cell:
        return Cell(_word(row), row.verdict.word)

    def brief_ratio(change: Change | None) -> str:
        return "-" if change is None else f"{change.ratio:.3f}"

    def interval(change: Change | None) -> str:
        return interval_text(change.ratio_interval if change else None)

    def accuracies(row: ChangeRow) -> str:
        return " / ".join(map(percent, row.accuracies))

    return [
        Column("", lambda row: row.arm.label, "Arm", numeric=False, brief=True),
        Column("before", lambda _: names[before]),
        Column("after", lambda _: names[after]),
        Column("model", lambda row: row.case.model),
        Column("scenario", lambda row: row.case.scenario),
        Column("batch_size", lambda row: row.case.batch_size),
        Column("threads", lambda row: before.threads(row.case)),
        Column("precision", lambda row: row.arm.precision),
        Column("stack", lambda row: row.arm.stack),
        Column("variant", lambda row: row.arm.variant),
        Column("settings", lambda row: row.arm.settings),
        Column("latency_before_us", lambda row: scaled(row.latencies_ns[0], 1e3)),
        Column("latency_after_us", lambda row: scaled(row.latencies_ns[1], 1e3)),
        Column(
            "",
            lambda row: " / ".join(number(scaled(value, divisor)) for value in row.latencies_ns),
            f"{unit}, before / after",
        ),
        Column("alone_ratio", lambda row: None if row.alone is None else math.exp(row.alone)),
        Column("", lambda row: row.alone, "Alone", alone_text, brief=True),
        Column("control", lambda row: row.control.id if row.control else ""),
        Column("", lambda row: row.control.label if row.control else "-", "Control", numeric=False),
        *_ratio_columns("net", lambda row: row.net),
        Column("", lambda row: row.net, "Net of control", brief_ratio, brief=True),
        Column("", lambda row: row.net, "Interval", interval, brief=True),
        Column("blocks_before", lambda row: row.net.blocks[0] if row.net else None),
        Column("blocks_after", lambda row: row.net.blocks[1] if row.net else None),
        Column("", lambda row: "/".join(map(str, row.net.blocks)) if row.net else "-", "Blocks"),
        Column("p_value", lambda row: row.net.p_value if row.net else None),
        Column("slower_p_value", lambda row: row.net.slower_p if row.net else None),
        Column("verdict", lambda row: row.verdict.word),
        Column("", lambda row: row, "Verdict", verdict, numeric=False, brief=True, show_brief=brief_verdict),
        Column("", accuracies, "Accuracy, before / after"),
        Column("accuracy_before", lambda row: row.accuracies[0]),
        Column("accuracy_after", lambda row: row.accuracies[1]),
        Column("reason", lambda row: row.verdict.reason),
        Column("regression", lambda row: row.regression),
        Column("ruled_out", lambda row: row.ruled_out),
        Column("same_machine", lambda _: not comparison.other_machine),
    ]


def _word(row: ChangeRow) -> str:
    return "REGRESSION" if row.regression else row.verdict.word


def _ratio_columns(
    prefix: str, change: Callable[[ChangeRow], Change | None]
) -> tuple[Column[ChangeRow], Column[ChangeRow], Column[ChangeRow]]:
    def ratio(row: ChangeRow) -> float | None:
        return value.ratio if (value := change(row)) else None

    def bound(row: ChangeRow, end: Callable[[Interval | None], float | None]) -> float | None:
        return end(value.ratio_interval) if (value := change(row)) else None

    return (
        Column(f"{prefix}_ratio", ratio),
        Column(f"{prefix}_ci_low", lambda row: bound(row, low)),
        Column(f"{prefix}_ci_high", lambda row: bound(row, high)),
    )


def _method(threshold: float | None) -> Section:
    items: list[Text] = [
        """Ratios are speeds: above 1 the later run is faster. Alone is an arm's own time. Net of control is its ratio
        to the control's time, which is measured in the same blocks.""",
        """The control of an arm is its baseline, or else another vanilla arm, if it ran the same versions and kernels
        in both runs.""",
        """The unit is the block. The estimate is that of Hodges and Lehmann for two samples. The interval is the wider
        one at each end of Mann and Whitney's exact one and of Welch's with the effect of a run.""",
        """The effect of a run on single arms is estimated from the vanilla arms and A/A arms that ran the same
        software, and moderated by what is usual.""",
        f"""FASTER, SLOWER: the interval excludes 1, and the p value passes Holm's correction over all rows.
        UNCHANGED: by more than {(MARGIN if threshold is None else threshold) * 100:g} %, with 95 % confidence at each
        end. UNRESOLVED: neither.""",
    ]
    if threshold is not None:
        limit = f"{threshold * 100:g}"
        rule = f"""SLOWER, and by more than {limit} %, by both tests with Holm's correction at {GATE_LEVEL:.0%}; on the
            same machine."""
        items.append(("REGRESSION (", Code(f"--fail-if-slower {limit}%"), f"): {rule}"))
    return Section("How runs are compared", (Bullets(tuple(items)),))
