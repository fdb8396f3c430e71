"""The sentence that answers the question of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.analysis import gates
from bench.report.answer.judgements import NOT_WORTH, SOME, UNSETTLED, WORTH, judgements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.analysis.run import Run
    from bench.report.answer.judgements import Judgement, Outcome
    from bench.suite.arms import Case

NAMES = {"pytorch": "PyTorch", "tensorflow": "TensorFlow", "ipex": "IPEX", "itex": "ITEX", "openvino": "OpenVINO",
         "onnxruntime": "ONNX Runtime"}  # fmt: skip
# More cases are counted instead of named.
MOST_NAMED, BOTH = 3, 2
NOTHING = "No stack was measured with a stock one to compare it with: there are absolute times, but no speedup."
EMPTY = "No arm was measured."


def name_of(stack: str) -> str:
    base, _, newest = stack.partition("-latest")
    return ("Newest " if newest or stack != base else "") + NAMES.get(base, base)


def short_labels(cases: Sequence[Case]) -> dict[Case, str]:
    """Return labels without what all cases have in common."""
    parts = {case: case.label.split(", ") for case in cases}
    common = set.intersection(*map(set, parts.values())) if len(cases) > 1 else set()
    return {case: ", ".join(part for part in parts[case] if part not in common) or case.label for case in cases}


def answer_sentence(run: Run) -> str:
    """Return the answer: a sentence for each stack, or one for all that are not settled."""
    if run.withdrawal:
        return f"This run was withdrawn on {run.withdrawal.date}: {run.withdrawal.why}. It answers nothing."
    if run.is_empty:
        return EMPTY
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
    name, outcomes = _called(judgement), judgement.outcomes
    worth = judgement.having(WORTH)
    refused, unsettled = judgement.having(NOT_WORTH), judgement.having(UNSETTLED)
    if judgement.word == WORTH:
        sizes = ", ".join(outcome.size for outcome in worth)
        if len(worth) > MOST_NAMED:
            ordered = sorted(worth, key=lambda outcome: outcome.row.speedup or 0.0)
            sizes = f"{ordered[0].size} to {ordered[-1].size}"
        text = f"{name} is worth it here{_everywhere(outcomes, labels)} ({sizes} over {_fastest_of(worth)})"
    elif judgement.word == SOME:
        parts = [f"{name} is worth it {at_cases(worth, labels)}"]
        parts += [f"not {at_cases(refused, labels)} ({_why_not(refused)})"] if refused else []
        parts += [f"not settled {at_cases(unsettled, labels)}"] if unsettled else []
        text = ", ".join(parts)
    else:
        text = f"{name} is not worth it here{_everywhere(outcomes, labels)} ({_why_not(refused)})"
    if faster := [outcome for outcome in worth if outcome.faster_stock]:
        other = faster[0].faster_stock[0].stack if faster[0].faster_stock else ""
        where = "there" if len(faster) == len(outcomes) else at_cases(faster, labels)
        text += f", but stock {name_of(other)} is faster {where}"
    return text


def _fastest_of(outcomes: Sequence[Outcome]) -> str:
    """Return what these outcomes are compared with; its framework is named where that of another one is faster."""
    if not any(outcome.faster_stock for outcome in outcomes):
        return "the fastest stock variant"
    return "the fastest variant of stock " + listed(
        list(dict.fromkeys(name_of(outcome.row.pair.baseline.stack) for outcome in outcomes))
    )


def _called(judgement: Judgement) -> str:
    return name_of(judgement.stack) + (" (not Intel's)" if judgement.alternative else "")


def _unsettled_clause(judged: Sequence[Judgement]) -> str:
    names = listed([_called(judgement) for judgement in judged])
    reasons = {
        outcome.row.verdict.reason
        for judgement in judged
        for outcome in judgement.outcomes
        if outcome.word == UNSETTLED
    }
    why = f": {reasons.pop()}" if len(reasons) == 1 else ", for the reasons below"
    return f"whether {names} {'is' if len(judged) == 1 else 'are'} worth it here is not settled{why}"


def _everywhere(outcomes: Sequence[Outcome], labels: Mapping[Case, str]) -> str:
    if len(outcomes) == 1:
        return ""
    by_batch = all(
        labels[outcome.case].startswith("batch ") and "," not in labels[outcome.case] for outcome in outcomes
    )
    if by_batch:
        return " at both batch sizes" if len(outcomes) == BOTH else " at every batch size"
    return " in every case"


def _why_not(outcomes: Sequence[Outcome]) -> str:
    words = {outcome.row.verdict.word for outcome in outcomes}
    if words == {gates.EQUIVALENT}:
        return "no gain over stock"
    return "slower than stock" if words == {gates.SLOWER} else "slower than stock, or no gain"


def listed(names: Sequence[str]) -> str:
    """Return "a", "a and b", or "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def at_cases(outcomes: Sequence[Outcome], labels: Mapping[Case, str]) -> str:
    if len(outcomes) > MOST_NAMED:
        return f"in {len(outcomes)} of {len(labels)} cases"
    return "at " + listed([labels[outcome.case] for outcome in outcomes])
