"""The answer of a run as the section that its report opens with."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis.attribution import attributions
from bench.analysis.gates import FASTER, SLOWER, WITHHELD
from bench.analysis.speedups import baselines_not_measured
from bench.report.answer.judgements import LATEST, NOT_WORTH, SOME, UNSETTLED, WORTH, judgements
from bench.report.answer.wording import MOST_NAMED, answer_sentence, at_cases, listed, name_of, short_labels
from bench.report.arm_table import ArmRow
from bench.report.document import (
    Card,
    Cards,
    Cell,
    Code,
    Column,
    Heading,
    Paragraph,
    Plot,
    Row,
    Section,
    Strong,
    Table,
    table,
)
from bench.report.text import decimals3, interval_text, level, number, part_text, percent
from bench.suite.arms import LATENCY, LOADGEN, TRAINING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.report.answer.judgements import Judgement, Outcome
    from bench.report.document import Element, Text
    from bench.suite.arms import Arm, Case

Arms: TypeAlias = "Mapping[Case, Sequence[ArmRow]]"

STYLES = {WORTH: "FASTER", NOT_WORTH: "SLOWER", UNSETTLED: "UNRESOLVED", SOME: "EQUIVALENT"}
MAINTENANCE = {
    "ipex": "Archived by its authors, with known security issues. Do not newly deploy it.",
    "itex": "No longer maintained. Do not newly deploy it.",
}
UPGRADE_COMMAND = "tox -e vanilla,ipex,itex,openvino,latest"
QUESTION = "Is it worth it here?"


def answer(run: Run, arms: Arms) -> Section:
    """Return the section that a reader in a hurry reads."""
    if run.withdrawal:
        return Section(QUESTION, (Paragraph(answer_sentence(run), "answer"),))
    judged, upgrades = judgements(run), judgements(run, upgrades=True)
    blocks: list[Element] = [Paragraph(answer_sentence(run), "answer")]
    if judged:
        blocks.append(Cards(tuple(_card(run, judgement, arms) for judgement in judged)))
        blocks.append(Paragraph(_rule(run)))
        alt = "Speedup of each stack over the fastest stock variant, with its interval, in every case"
        caption = f"""Each stack against the fastest stock variant of the same precision. The line is the {level(run)}
            interval; the grey band is what the harness reports for two equal processes."""
        blocks.append(Section("All cases", (Plot("summary", alt, caption),)))
        blocks.append(Section("Would a newer stock version do?", _upgrade(run, upgrades, arms)))
    if (fastest := _fastest(run, arms)) is not None:
        blocks.append(fastest)
    return Section(QUESTION, tuple(blocks))


def _rule(run: Run) -> str:
    what = "epoch time" if run.info.suite.training else "latency or time per batch"
    interval = (
        f"The interval covers the true speedup with {level(run)} confidence."
        if run.preset.confidence
        else "This preset has too few measurements for intervals, so it claims nothing."
    )
    return f"""A stack is worth it where it is faster than the fastest stock variant beyond doubt, with the same
        accuracy. Speedup is stock {what} divided by the stack's: above 1 the stack is faster. {interval}"""


def _card(run: Run, judgement: Judgement, arms: Arms) -> Card:
    labels = short_labels(run.cases)
    columns: list[Column[Outcome]] = [
        Column("", lambda outcome: labels[outcome.case], "Case", numeric=False),
        Column(
            "", lambda outcome: outcome.row, f"Speedup ({level(run)} interval)" if level(run) else "Speedup", _size_cell
        ),
        Column("", lambda outcome: outcome, "Verdict", lambda outcome: _verdict_cell(outcome.row), numeric=False),
    ]
    facts = [
        _compared(run, judgement, labels),
        _times_in_another_order(run, judgement, labels),
        _own_share(run, judgement, labels),
        _maintenance(judgement.stack),
        (Strong("Not Intel's"), " An alternative to Intel's stacks.") if judgement.alternative else None,
    ]
    return Card(
        title=f"{name_of(judgement.stack)} {judgement.arm.variant}",
        badge=_badge(judgement, labels),
        style=STYLES[judgement.word],
        blocks=(
            table(judgement.outcomes, columns),
            _figures(run, judgement, arms),
            *(Paragraph(fact, "fact") for fact in facts if fact),
        ),
    )


def _badge(judgement: Judgement, labels: Mapping[Case, str]) -> str:
    worth = judgement.having(WORTH)
    return f"{WORTH} {at_cases(worth, labels)} only" if judgement.word == SOME else judgement.word


def _size_cell(row: Speedup) -> Cell:
    interval = interval_text(row.interval) if row.interval else ""
    return Cell(decimals3(row.speedup), struck=row.verdict.word == WITHHELD, detail=interval)


def _verdict_cell(row: Speedup) -> Cell:
    unmatched = "environments differ by design or by accident: see Versions" if row.matched is False else ""
    reason = "; ".join(filter(None, (row.verdict.reason, unmatched)))
    return Cell(row.verdict.word, row.verdict.word, reason)


def _grouped(values: Sequence[tuple[str, str]]) -> str:
    """Return "a (x), b (y and z)" for (label, value) pairs; a single value stands without its labels."""
    groups: dict[str, list[str]] = {}
    for label, value in values:
        groups.setdefault(value, []).append(label)
    if len(groups) == 1:
        return next(iter(groups))
    return ", ".join(f"{value} ({listed(labels)})" for value, labels in groups.items())


def _figures(run: Run, judgement: Judgement, arms: Arms) -> Table:
    """Return the table of what a stack needs beside what stock needs: time, accuracy, memory and start."""
    outcomes, labels = judgement.outcomes[:MOST_NAMED], short_labels([outcome.case for outcome in judgement.outcomes])
    training = outcomes[0].case.scenario == TRAINING
    what = "Epoch" if training else "Latency" if outcomes[0].case.scenario == LATENCY else "Time per batch"
    if outcomes[0].case.scenario in LOADGEN:
        what = "Time that counts"
    unit, divisor = ("s", 1e9) if training else ("µs", 1e3)

    def both(row: Speedup, value: Callable[[Arm, Case], float | None], unit: str, divisor: float) -> list[str]:
        values = [value(arm, row.pair.case) for arm in (row.pair.arm, row.pair.baseline)]
        return [f"{number(value / divisor)} {unit}" if value else "-" for value in values]

    rows = []
    for outcome in outcomes:
        name = f"{what}, {labels[outcome.case]}" if len(judgement.outcomes) > 1 else what
        latency = partial(run.typical_latency_ns, rule=outcome.row.rule)
        rows.append([name, *both(outcome.row, latency, unit, divisor)])
    by_model = {outcome.case.model: outcome.row.pair for outcome in reversed(outcomes)}
    for model, pair in reversed(by_model.items()):
        accuracies = [percent(run.accuracy(arm, pair.case)) for arm in (pair.arm, pair.baseline)]
        rows.append([f"Accuracy, {model}" if len(by_model) > 1 else "Accuracy", *accuracies])
    costs = {(row.arm, row.case): row.cost for row in arms[outcomes[0].case]}
    first = outcomes[0].row

    def memory(arm: Arm, case: Case) -> float | None:
        return costs[arm, case].memory_bytes or run.trained_memory_bytes(arm, case)

    rows.append(["Peak memory", *both(first, memory, "MB", 1e6)])
    rows.append(["Cold start", *both(first, lambda arm, case: costs[arm, case].cold_start_ns, "s", 1e9)])
    headings = (Heading("Needs"), Heading(name_of(judgement.stack), numeric=True), Heading("Stock", numeric=True))
    return Table(headings, tuple(Row(tuple(map(Cell, row))) for row in rows if row[1:] != ["-", "-"]))


def _times_in_another_order(run: Run, judgement: Judgement, labels: Mapping[Case, str]) -> Text | None:
    """Return why the shown times contradict a verdict, where they do."""
    contradicted = []
    for outcome in judgement.outcomes[:MOST_NAMED]:
        pair, rule = outcome.row.pair, outcome.row.rule
        ours, theirs = (run.typical_latency_ns(arm, pair.case, rule) for arm in (pair.arm, pair.baseline))
        if ours and theirs and outcome.row.verdict.word == (SLOWER if ours < theirs else FASTER):
            contradicted.append(outcome)
    if not contradicted:
        return None
    where = at_cases(contradicted, labels) if len(judgement.outcomes) > 1 else "above"
    return (
        Strong("Time and speedup"),
        f""" The times {where} are medians over the whole run. The speedup pairs turns of the same moments, so on a
        noisy machine it can point the other way. The speedup counts.""",
    )


def _compared(run: Run, judgement: Judgement, labels: Mapping[Case, str]) -> Text:
    stock = _grouped([(labels[outcome.case], outcome.row.pair.baseline.label) for outcome in judgement.outcomes])
    text = f" {stock}."
    missing = dict.fromkeys(
        label for outcome in judgement.outcomes for label in baselines_not_measured(run, outcome.row.pair)
    )
    if missing:
        text += f" Not measured: {', '.join(missing)}."
    for outcome in judgement.outcomes:
        if outcome.faster_stock:
            other, estimate = outcome.faster_stock
            text += f" At {labels[outcome.case]}, stock {other.label} is {estimate.speedup:.2f}x as fast as this stack."
    return Strong("Compared with"), text


def _own_share(run: Run, judgement: Judgement, labels: Mapping[Case, str]) -> Text | None:
    shares = []
    for ladder in attributions(run):
        total, row = ladder.fp32_total, ladder.extension
        if row is None or row.pair.arm != judgement.arm or total is None or row.estimate is None:
            continue
        if row.verdict.word == WITHHELD:
            continue
        share = "none" if ladder.share is None else f"{part_text(ladder.share)} of {total.speedup:.2f}x"
        shares.append((labels[ladder.case], share))
    if not shares:
        return None
    text = f" {_grouped(list(dict.fromkeys(shares)))}: its share of the gain over default settings, on the log scale."
    return Strong("How much is the extension's"), text


def _maintenance(stack: str) -> Text | None:
    return (Strong("Maintenance"), f" {MAINTENANCE[stack]}") if stack in MAINTENANCE else None


def _upgrade(run: Run, upgrades: Sequence[Judgement], arms: Arms) -> tuple[Element, ...]:
    if not upgrades:
        text = (
            "Not measured here. The environment ", Code(LATEST), " holds the newest stock PyTorch and TensorFlow: ",
            Code(UPGRADE_COMMAND), " measures them with the others.",
        )  # fmt: skip
        return (Paragraph(text),)
    explanation = """The newest stock frameworks against the stock versions above, which are those that the extensions
        need. Their environments differ by design."""
    return Paragraph(explanation), Cards(tuple(_card(run, judgement, arms) for judgement in upgrades))


def _fastest(run: Run, arms: Arms) -> Section | None:
    """Return the costs of the fastest stack of each case beside those of the fastest stock one."""
    labels, rows = short_labels(run.cases), list[tuple[str, ArmRow]]()
    for case in run.cases:
        measured = [row for row in arms[case] if row.typical_ns and not row.arm.replica]
        candidates = {
            "any precision": measured,
            "fp32": [row for row in measured if row.arm.precision == "fp32"],
            "stock fp32": [row for row in measured if row.arm.precision == "fp32" and run.is_vanilla(row.arm)],
        }
        fastest = {
            name: min(among, key=lambda row: row.typical_ns or math.inf) for name, among in candidates.items() if among
        }
        if fastest.get("any precision") is fastest.get("fp32"):
            fastest.pop("any precision", None)
        rows += [(f"{labels[case]}: {name}", row) for name, row in fastest.items()]
    unit, divisor = ("Epoch, s", 1e9) if run.info.suite.training else ("Time, µs", 1e3)
    columns: list[Column[tuple[str, ArmRow]]] = [
        Column("", lambda row: row[0], "Fastest in", numeric=False),
        Column("", lambda row: row[1].arm.label, "Stack and variant", numeric=False),
        Column("", lambda row: (row[1].typical_ns or math.nan) / divisor, unit, number),
        Column("", lambda row: run.accuracy(row[1].arm, row[1].case), "Accuracy", percent),
        Column(
            "",
            lambda row: row[1].cost.memory_bytes or run.trained_memory_bytes(row[1].arm, row[1].case),
            "Peak memory, MB",
            lambda value: number(value / 1e6 if value else None),
        ),
        Column(
            "",
            lambda row: row[1].cost.cold_start_ns,
            "Cold start, s" if run.starts else "",
            lambda value: number(value / 1e9 if value else None),
        ),
    ]
    explanation = "No verdict belongs to this table: it shows what the fastest one costs."
    if run.starts:
        explanation += """ Cold start is the time from the weights on disk to the first result, with empty caches."""
    return Section("What the fastest costs", (Paragraph(explanation), table(rows, columns))) if rows else None
