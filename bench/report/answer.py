"""The answer of a run: is each Intel-optimised stack worth it here, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bench.analysis import gates
from bench.analysis.attribution import attributions
from bench.analysis.speedups import baselines_not_measured, speedups
from bench.report.arm_table import ArmRow
from bench.report.document import Card, Cards, Cell, Code, Column, Paragraph, Plot, Section, Strong, table
from bench.report.text import decimals3, interval_text, level, number, percent
from bench.suite.arms import LATENCY, TRAINING, Pair

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.analysis.speedups import Speedup
    from bench.report.document import Element, Text
    from bench.suite.arms import Arm, Case

Arms: TypeAlias = "Mapping[Case, Sequence[ArmRow]]"

WORTH, NOT_WORTH, UNSETTLED = "worth it", "not worth it", "not settled"
SOME = "worth it in part"
STYLES = {WORTH: "FASTER", NOT_WORTH: "SLOWER", UNSETTLED: "UNRESOLVED", SOME: "EQUIVALENT"}
NAMES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "ipex": "IPEX", "itex": "ITEX", "openvino": "OpenVINO",
         "onnxruntime": "ONNX Runtime"}  # fmt: skip
MAINTENANCE = {
    "ipex": "Archived by its authors, with known security issues. Do not newly deploy it.",
    "itex": "No longer maintained. Do not newly deploy it.",
}
# The environment with the newest stock frameworks.
LATEST = "latest"
UPGRADE_COMMAND = "tox -e vanilla,ipex,itex,openvino,latest"
# More cases are counted instead of named.
MOST_NAMED, BOTH = 3, 2
QUESTION = "Is it worth it here?"
NOTHING = "No Intel-optimised stack was measured with a stock one: there is no speedup to report, only absolute times."


@dataclass(frozen=True)
class Outcome:
    """A stack on a case: its comparison with the fastest of its stock variants.

    `faster_stock` is a stock arm of another framework that is faster than the stack, with the ratio.
    """

    row: Speedup
    faster_stock: tuple[Arm, Estimate] | None

    @property
    def case(self) -> Case:
        return self.row.pair.case

    @property
    def word(self) -> str:
        match self.row.verdict.word:
            case gates.FASTER:
                return WORTH
            case gates.SLOWER | gates.EQUIVALENT:
                return NOT_WORTH
            case _:
                return UNSETTLED

    @property
    def size(self) -> str:
        return f"{self.row.speedup:.2f}x" if self.row.speedup else "no ratio"


@dataclass(frozen=True)
class Judgement:
    """A stack on every case in which it was compared with a stock one."""

    stack: str
    arm: Arm
    outcomes: tuple[Outcome, ...]

    @property
    def word(self) -> str:
        words = {outcome.word for outcome in self.outcomes}
        if WORTH in words:
            return WORTH if len(words) == 1 else SOME
        return UNSETTLED if UNSETTLED in words else NOT_WORTH

    def having(self, word: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.word == word]


def judgements(run: Run, *, upgrades: bool = False) -> list[Judgement]:
    """Return a judgement of each Intel-optimised stack, or of each newer version of a stock one, the best first.

    A stack is judged by the arm that the suite named before measuring, or else by the first one in fp32.
    """
    rows = [row for row in speedups(run) if not row.pair.arm.replica and run.is_vanilla(row.pair.baseline)]
    judged = []
    for stack, info in run.info.stacks.items():
        own = [row for row in rows if row.pair.arm.stack == stack]
        if not info.baselines or (info.environment == LATEST) != upgrades or not own:
            continue
        named = [row.pair.arm for row in own if row.pair.candidate]
        arm = (named or [row.pair.arm for row in own if row.pair.arm.precision == "fp32"] or [own[0].pair.arm])[0]
        hardest = [_hardest([row for row in own if (row.pair.arm, row.pair.case) == (arm, case)]) for case in run.cases]
        outcomes = [Outcome(row, _faster_stock(run, row)) for row in hardest if row]
        judged.append(Judgement(stack, arm, tuple(outcomes)))

    def rank(judgement: Judgement) -> tuple[int, bool, float]:
        smallest = min(outcome.row.speedup or 0.0 for outcome in judgement.outcomes)
        beaten = any(outcome.faster_stock for outcome in judgement.outcomes)
        return [WORTH, SOME, UNSETTLED, NOT_WORTH].index(judgement.word), beaten, -smallest

    return sorted(judged, key=rank)


def _hardest(rows: Sequence[Speedup]) -> Speedup | None:
    """Return the comparison of an arm on a case with its fastest baseline."""
    measured = [row for row in rows if row.estimate]
    smallest = min(measured, key=lambda row: row.estimate.log_speedup if row.estimate else math.inf, default=None)
    return next((row for row in rows if row.primary), smallest) or next(iter(rows), None)


def _faster_stock(run: Run, row: Speedup) -> tuple[Arm, Estimate] | None:
    """Return the fastest stock arm of another framework if it is faster than the arm, with the ratio."""
    arm, case = row.pair.arm, row.pair.case
    compared = run.info.stacks[arm.stack].baselines
    others = [
        other
        for other in run.participants(case)
        if run.is_vanilla(other) and other.stack not in compared and other.precision == arm.precision
        if run.typical_latency_ns(other, case)
    ]
    fastest = min(others, key=lambda other: run.typical_latency_ns(other, case) or math.inf, default=None)
    estimate = run.estimate(Pair(fastest, arm, case)) if fastest else None
    faster = estimate and estimate.ratio_interval and estimate.ratio_interval.low > 1
    return (fastest, estimate) if fastest and estimate and faster else None


def name_of(stack: str) -> str:
    base, _, newest = stack.partition("-latest")
    return ("Newest " if newest or stack != base else "") + NAMES.get(base, base)


def short_labels(cases: Sequence[Case]) -> dict[Case, str]:
    """Return labels without what all cases have in common."""
    parts = {case: case.label.split(", ") for case in cases}
    common = set.intersection(*map(set, parts.values())) if len(cases) > 1 else set()
    return {case: ", ".join(part for part in parts[case] if part not in common) or case.label for case in cases}


def answer(run: Run, arms: Arms) -> Section:
    """Return the section that a reader in a hurry reads."""
    if run.withdrawal:
        return Section(QUESTION, (Paragraph(answer_sentence(run), "answer"),))
    judged, upgrades = judgements(run), judgements(run, upgrades=True)
    blocks: list[Element] = [Paragraph(answer_sentence(run), "answer")]
    if judged:
        blocks.append(Paragraph(_rule(run)))
        blocks.append(Cards(tuple(_card(run, judgement, arms) for judgement in judged)))
        alt = "Speedup of each Intel-optimised stack over the fastest stock variant, with its interval, in every case"
        caption = f"""Each stack against the fastest stock variant of the same precision. The line is the {level(run)}
            interval; the grey band is what the harness reports for two equal processes."""
        blocks.append(Section("All cases", (Plot("summary", alt, caption),)))
        blocks.append(Section("Would a newer stock version do?", _upgrade(run, upgrades, arms)))
    if (fastest := _fastest(run, arms)) is not None:
        blocks.append(fastest)
    return Section(QUESTION, tuple(blocks))


def answer_sentence(run: Run) -> str:
    """Return the answer: a sentence for each Intel-optimised stack, or one for all that are not settled."""
    if run.withdrawal:
        return f"This run was withdrawn on {run.withdrawal.date}: {run.withdrawal.why}. It answers nothing."
    labels = short_labels(run.cases)
    judged = judgements(run)
    if not judged:
        return NOTHING
    clauses = [_clause(judgement, labels) for judgement in judged if judgement.word != UNSETTLED]
    if unsettled := [judgement for judgement in judged if judgement.word == UNSETTLED]:
        clauses.append(_unsettled_clause(unsettled))
    sentences = [f"{clause[0].upper()}{clause[1:]}." for clause in clauses]
    return " ".join([*sentences, "The data is synthetic."] if run.data == "synthetic" else sentences)


def _clause(judgement: Judgement, labels: Mapping[Case, str]) -> str:
    name, outcomes = name_of(judgement.stack), judgement.outcomes
    worth = judgement.having(WORTH)
    refused, unsettled = judgement.having(NOT_WORTH), judgement.having(UNSETTLED)
    if judgement.word == WORTH:
        sizes = ", ".join(outcome.size for outcome in worth[:MOST_NAMED])
        text = f"{name} is worth it here{_everywhere(outcomes, labels)} ({sizes} over the fastest stock variant)"
    elif judgement.word == SOME:
        parts = [f"{name} is worth it {_where(worth, labels)}"]
        parts += [f"not {_where(refused, labels)} ({_why_not(refused)})"] if refused else []
        parts += [f"not settled {_where(unsettled, labels)}"] if unsettled else []
        text = ", ".join(parts)
    else:
        text = f"{name} is not worth it here{_everywhere(outcomes, labels)} ({_why_not(refused)})"
    if faster := [outcome for outcome in worth if outcome.faster_stock]:
        other = faster[0].faster_stock[0].stack if faster[0].faster_stock else ""
        text += f", but stock {name_of(other)} is faster {_where(faster, labels)}"
    return text


def _unsettled_clause(judged: Sequence[Judgement]) -> str:
    names = _listed([name_of(judgement.stack) for judgement in judged])
    reasons = {
        outcome.row.verdict.reason
        for judgement in judged
        for outcome in judgement.outcomes
        if outcome.word == UNSETTLED
    }
    why = f": {reasons.pop()}" if len(reasons) == 1 else ", for the reasons below"
    return f"whether {names} {'is' if len(judged) == 1 else 'are'} worth it here is not settled{why}"


def _listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _everywhere(outcomes: Sequence[Outcome], labels: Mapping[Case, str]) -> str:
    if len(outcomes) == 1:
        return ""
    by_batch = all(
        labels[outcome.case].startswith("batch ") and "," not in labels[outcome.case] for outcome in outcomes
    )
    if by_batch:
        return " at both batch sizes" if len(outcomes) == BOTH else " at every batch size"
    return " in every case"


def _where(outcomes: Sequence[Outcome], labels: Mapping[Case, str]) -> str:
    if len(outcomes) > MOST_NAMED:
        return f"in {len(outcomes)} of {len(labels)} cases"
    return "at " + _listed([labels[outcome.case] for outcome in outcomes])


def _why_not(outcomes: Sequence[Outcome]) -> str:
    words = {outcome.row.verdict.word for outcome in outcomes}
    if words == {gates.EQUIVALENT}:
        return "no gain over stock"
    return "slower than stock" if words == {gates.SLOWER} else "slower than stock, or no gain"


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
        fact
        for fact in (
            _compared(run, judgement, labels),
            _accuracies(run, judgement),
            _own_share(run, judgement, labels),
            _start_and_memory(judgement, arms),
            _maintenance(judgement.stack),
        )
        if fact
    ]
    return Card(
        title=f"{name_of(judgement.stack)} {judgement.arm.variant}",
        badge=_badge(judgement, labels),
        style=STYLES[judgement.word],
        blocks=(
            table(judgement.outcomes, columns),
            *(Paragraph(fact, "fact") for fact in facts),
        ),
    )


def _badge(judgement: Judgement, labels: Mapping[Case, str]) -> str:
    worth = judgement.having(WORTH)
    return f"{WORTH} {_where(worth, labels)} only" if judgement.word == SOME else judgement.word


def _size_cell(row: Speedup) -> Cell:
    return Cell(decimals3(row.speedup), detail=interval_text(row.interval) if row.interval else "")


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
    return ", ".join(f"{value} ({_listed(labels)})" for value, labels in groups.items())


def _compared(run: Run, judgement: Judgement, labels: Mapping[Case, str]) -> Text:
    unit, divisor = ("s", 1e9) if judgement.outcomes[0].case.scenario == TRAINING else ("µs", 1e3)

    def times(outcome: Outcome) -> str:
        pair = outcome.row.pair
        typical = [run.typical_latency_ns(arm, pair.case) for arm in (pair.arm, pair.baseline)]
        shown = [number(value / divisor if value else None) for value in typical]
        return f"{shown[0]} against {shown[1]} {unit}"

    stock = _grouped([(labels[outcome.case], outcome.row.pair.baseline.label) for outcome in judgement.outcomes])
    what = "Epoch" if unit == "s" else "Latency" if judgement.outcomes[0].case.scenario == LATENCY else "Time per batch"
    sizes = _grouped([(labels[outcome.case], times(outcome)) for outcome in judgement.outcomes[:MOST_NAMED]])
    text = f" {stock}. {what}: {sizes}."
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


def _accuracies(run: Run, judgement: Judgement) -> Text | None:
    models = dict.fromkeys(outcome.case.model for outcome in judgement.outcomes)
    shown = []
    for model in models:
        row = next(outcome.row for outcome in judgement.outcomes if outcome.case.model == model)
        own, stock = (run.accuracy(arm, row.pair.case) for arm in (row.pair.arm, row.pair.baseline))
        shown.append((model, f"{percent(own)}, stock {percent(stock)}"))
    return Strong("Accuracy"), f" {_grouped(shown)}."


def _own_share(run: Run, judgement: Judgement, labels: Mapping[Case, str]) -> Text | None:
    shares = []
    for ladder in attributions(run):
        total, row = ladder.fp32_total, ladder.extension
        if row is None or row.pair.arm != judgement.arm or total is None or row.estimate is None:
            continue
        share = (
            "no gain to divide" if ladder.share is None else f"{ladder.share:z.0%} of a gain of {total.speedup:.2f}x"
        )
        shares.append((labels[ladder.case], share))
    if not shares:
        return None
    rest = "over default settings, on the log scale. The rest comes from settings and variants of stock."
    return Strong("How much is the extension's"), f" {_grouped(list(dict.fromkeys(shares)))}, {rest}"


def _start_and_memory(judgement: Judgement, arms: Arms) -> Text | None:
    pair = judgement.outcomes[0].row.pair
    rows = {row.arm: row for row in arms[pair.case]}
    own, stock = rows[pair.arm].cost, rows[pair.baseline].cost
    parts = []
    if own.memory_bytes and stock.memory_bytes:
        parts.append(f"Peak memory {number(own.memory_bytes / 1e6)} MB, stock {number(stock.memory_bytes / 1e6)} MB.")
    if own.cold_start_ns and stock.cold_start_ns:
        parts.append(f"Cold start {number(own.cold_start_ns / 1e9)} s, stock {number(stock.cold_start_ns / 1e9)} s.")
    return (Strong("Costs"), f" {' '.join(parts)}") if parts else None


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
            "Cold start, s",
            lambda value: number(value / 1e9 if value else None),
        ),
    ]
    explanation = """No verdict belongs to this table: it shows what the fastest one costs. Cold start is the time from
        the weights on disk to the first result, with empty caches."""
    return Section("What the fastest costs", (Paragraph(explanation), table(rows, columns))) if rows else None


def summary_rows(run: Run) -> list[tuple[Judgement, Outcome]]:
    """Return the rows of the plot over all cases: each case's stacks, then each case's upgrades."""
    judged = [*judgements(run), *judgements(run, upgrades=True)]
    return [
        (judgement, outcome)
        for case in run.cases
        for judgement in judged
        for outcome in judgement.outcomes
        if outcome.case == case and outcome.row.speedup
    ]
