"""Format numbers and intervals, and write the sentences of reports."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from bench.analysis.gates import MAX_GLUE_NS, WITHHELD
from bench.analysis.speedups import (
    changed_by_rest,
    failed,
    failed_aa_checks,
    speedups,
    withheld,
)
from bench.console import duration
from bench.records import INTERRUPTED, BlockEnd, Glue
from bench.suite.arms import THROUGHPUT
from models.data import SYNTHETIC_WARNING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.analysis.attribution import Attribution
    from bench.analysis.gates import Estimate
    from bench.analysis.run import Run
    from bench.analysis.stats import Interval
    from bench.suite.arms import Case, Split
    from bench.suite.user_variables import UserVariables

# The two clocks that a suspension is read from are not read at the same moment.
SHORTEST_SUSPENSION_NS = 100_000_000
# What git appends to the commit of a checkout that has changes.
UNCOMMITTED = "-dirty"
# Smaller numbers are written with an exponent.
SMALL_NUMBER = 1e-3
# From here on the digits before the point are grouped, and none follow it.
GROUPED_FROM = 1000
UNTRAINED_WARNING = "UNTRAINED WEIGHTS: {} has no trained checkpoint. Times are valid, accuracies mean nothing."


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits, or a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "-"
    if value == math.inf:
        return "never"
    if abs(value) >= min(10**digits, GROUPED_FROM):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) < SMALL_NUMBER else f"{value:#.{digits}g}".rstrip(".")


def number2(value: float | None) -> str:
    return number(value, 2)


def number4(value: float | None) -> str:
    return number(value, 4)


def decimals3(value: float | None) -> str:
    """Return a number with three decimals, so that the points of a column are aligned."""
    return "-" if value is None else f"{value:.3f}"


def level(run: Run) -> str:
    """Return the confidence of the run's intervals, such as "95 %", or nothing if it has none."""
    return f"{run.preset.confidence * 100:g} %" if run.preset.confidence else ""


def percent(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value * 100:z.{digits}f} %"


def share_text(share: float | None, interval: Interval | None) -> str:
    """Return `85 %, 83 to 87 %`."""
    bounds = f", {interval.low * 100:.1f} to {interval.high * 100:.1f} %" if interval else ""
    return f"{percent(share, 1)}{bounds}"


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def interval_text(interval: Interval | None) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}" if interval else "-"


def ratio(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    interval = estimate.ratio_interval
    return f"{estimate.speedup:.3f}" + (f" ({interval_text(interval)})" if interval else "")


def case_title(run: Run, case: Case) -> str:
    """Return the title of a case's tables, which says so if the data is synthetic."""
    return case.label + (" [SYNTHETIC DATA]" if run.data == "synthetic" else "")


def variable_facts(variables: UserVariables) -> list[str]:
    """Return what has become of the user's environment variables, as ends of sentences."""
    facts = {
        "set for all arms with --env": assigned(variables.given),
        "handed on to all arms": assigned(variables.kept),
        "not handed on": ", ".join(variables.dropped),
    }
    return [f"{what}: {names}" for what, names in facts.items() if names]


def variable_lines(variables: UserVariables) -> list[str]:
    return [f"Environment variables {fact}" for fact in variable_facts(variables)]


def assigned(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def split_text(case: Case, split: Split) -> str:
    """Return the number of threads or, for throughput, those of the streams and of each of them."""
    return f"{split.streams} x {split.threads}" if case.scenario == THROUGHPUT else str(split.threads)


def attribution_sentence(ladder: Attribution) -> str:
    first, row, total = ladder.rungs[0].arm.label, ladder.extension, ladder.fp32_total
    if row is None or ladder.own is None or total is None:
        last = ladder.rungs[-1]
        size = f"{last.total.speedup:.2f}x" if last.total else "no ratio"
        return f"From {first} to {last.arm.label}: {size}."
    interval = ladder.own.ratio_interval
    own = f"{ladder.own.speedup:.3f}x" + (f" ({interval_text(interval)})" if interval else "")
    share = "no gain to attribute" if ladder.share is None else f"{part_text(ladder.share)} of the gain"
    return (
        f"{row.pair.arm.label} is {total.speedup:.2f}x as fast as {first}. Compared with the fastest vanilla arm, "
        f"{row.pair.baseline.label}, it is {own}: {share}, on the log scale."
        + (f" This is withheld: {row.verdict.reason}." if row.verdict.word == WITHHELD else "")
    )


def part_text(share: float) -> str:
    """Return a part of a whole in percent; a negative one is none of it."""
    return "none" if round(100 * share) < 0 else percent(share, 0)


def warnings(run: Run) -> list[str]:
    """Return the warnings at the top of a report."""
    lines = [f"WITHDRAWN on {run.withdrawal.date}: {run.withdrawal.why}"] if run.withdrawal else []
    lines += [SYNTHETIC_WARNING] if run.data == "synthetic" else []
    lines += [UNTRAINED_WARNING.format(name) for name, model in run.info.models.items() if not model.trained]
    if (commit := run.info.git_commit or "").endswith(UNCOMMITTED):
        lines.append(f"the harness had uncommitted changes (commit {commit}): nobody else can measure this again")
    lines += [f"{name} was not measured: {reason}" for name, reason in run.info.missing.items()]
    return [*lines, *unmatched_lines(run.info.mismatches), *run.info.advice, *doubts(run), *problems(run)]


def unmatched_lines(mismatches: Mapping[str, Mapping[str, tuple[str, str]]]) -> list[str]:
    """Return a line for each environment whose versions differ from those of others, the one with the most first.

    `mismatches` are, by pair of environments, the packages whose versions differ.
    """
    pairs = {tuple(pair.split(" ", 1)): packages for pair, packages in mismatches.items()}
    lines = []
    while pairs:
        odd, _ = Counter(chain.from_iterable(pairs)).most_common(1)[0]
        others: list[str] = []
        versions: dict[str, dict[str, None]] = {}
        for pair in [pair for pair in pairs if odd in pair]:
            packages = pairs.pop(pair)
            others += [name for name in pair if name != odd]
            for package, both in packages.items():
                ordered = both if pair[0] == odd else both[::-1]
                versions.setdefault(package, {}).update(dict.fromkeys(ordered))
        unequal = ", ".join(f"{package} {' / '.join(different)}" for package, different in sorted(versions.items()))
        lines.append(f"UNMATCHED environments {odd} and {', '.join(others)}: {unequal}")
    return lines


def doubts(run: Run) -> list[str]:
    """Return a line for each thing that makes figures less sure than they look."""
    lines = [
        f"{row.pair.case.label}: the A/A interval excludes 1; do not trust differences of that size here"
        for row in failed_aa_checks(run)
    ]
    if suspended := [end for end in run.of(BlockEnd) if (end.suspended_ns or 0) > SHORTEST_SUSPENSION_NS]:
        seconds, blocks = sum(end.suspended_ns or 0 for end in suspended) / 1e9, counted(len(suspended), "block")
        lines.append(f"the machine was suspended for {duration(seconds)}, in {blocks}; no time includes that")
    lines += [
        f"{case.label}: {run.lack_of_rest(case)}. The speedups there are those of the machine as it was"
        for case in run.cases
        if run.blocks_at_rest(case) and run.rule_of(case) != run.rule
    ]
    lines += [
        f"LoadGen itself takes {glue.interval_ns / 1e3:.2f} µs a query, more than {MAX_GLUE_NS / 1e3:g} µs: all its "
        "times contain that, so ratios of short ones are too close to 1"
        for glue in run.of(Glue)
        if not glue.interval_ns <= MAX_GLUE_NS
    ]
    if changed := changed_by_rest(run):
        lines.append(
            f"{len(changed)} of {counted(len(speedups(run)), 'comparison')} differ by over 2 % between the machine at "
            "rest and as it was; the speedups show both"
        )
    return lines


def problems(run: Run) -> list[str]:
    """Return a line for each thing that failed and for each gate that tripped."""
    lines = []
    for arm, case, status in failed(run):
        what = f"{counted(status.failed_blocks, 'block')} failed" if status.failed_blocks else "failed"
        lines.append(f"{arm.label}, {case.label}: {what}: {status.reason}")
    lines += [
        f"{row.pair.arm.label} compared with {row.pair.baseline.label}: {row.verdict.reason}" for row in withheld(run)
    ]
    if run.is_empty and not lines:
        lines.append("no arm was measured: the tables give the reason for each")
    if run.end is None or run.end.status == INTERRUPTED:
        lines.append(
            "the run did not end: this is the report of what was measured until then; the same command with "
            f"--resume {run.folder.resolve().name} goes on"
        )
    return lines
