"""What the console shows before and after a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bench.analysis import gates
from bench.analysis.attribution import attributions
from bench.report.tables import failed, withheld
from models.data import SYNTHETIC_WARNING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bench.analysis.attribution import Attribution
    from bench.analysis.speedups import Run, Speedup
    from bench.analysis.stats import Interval
    from bench.suite.arms import Arm, Case
    from bench.suite.plan import Plan
    from models.data import DataSet

VERDICT_STYLES = {
    "FASTER": "bold green",
    "SLOWER": "bold red",
    "EQUIVALENT": "bold blue",
    gates.WITHHELD: "bold magenta",
}


def opening(plan: Plan, data: DataSet, advice: Sequence[str], console: Console) -> None:
    """Say what is about to be measured, and what can't be."""
    from bench.suite.environments import differences

    say, threads = console.print, ", ".join(map(str, plan.thread_counts))
    say(f"suite {plan.suite.name}, preset {plan.preset.name} ({plan.preset.summary})", highlight=False, soft_wrap=True)
    say(
        f"{len(plan.arms)} arms, {len(plan.suite.cases)} cases, {threads} threads, data: {data.name}",
        highlight=False,
    )
    if data.name == "synthetic":
        say(SYNTHETIC_WARNING, style="bold yellow", soft_wrap=True)
    for line in advice:
        say(line, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for name, reason in plan.missing.items():
        say(f"{name} is not measured: {reason}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    for ours, theirs in plan.environment_pairs:
        shared = len(ours.packages.keys() & theirs.packages.keys())
        say(_matching(ours.name, theirs.name, differences(ours, theirs), shared), highlight=False, soft_wrap=True)


def _matching(ours: str, theirs: str, found: dict[str, tuple[str, str]], shared: int) -> str:
    if not found:
        return f"environments {ours} and {theirs} are matched: their {shared} shared packages have equal versions"
    listed = ", ".join(f"{name} {one} / {other}" for name, (one, other) in found.items())
    return f"environments {ours} and {theirs} are UNMATCHED: {listed}"


def closing(run: Run, console: Console) -> None:
    """Show the verdicts case by case, what went wrong, and where the report lies."""
    for case in run.cases:
        console.print(_verdict_table([row for row in run.speedups if row.pair.case == case], case_title(run, case)), "")
    for row in run.speedups:
        if row.primary:
            console.print(headline(run, row), style="bold", markup=False, highlight=False, soft_wrap=True)
    for found in attributions(run):
        console.print(attribution_sentence(found), markup=False, highlight=False, soft_wrap=True)
    for trouble in doubtful_twins(run) + troubles(run):
        console.print(trouble, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if run.data == "synthetic":
        console.print(SYNTHETIC_WARNING, style="bold yellow", soft_wrap=True)
    console.print(f"report: {run.folder / 'report.html'}", markup=False, highlight=False, soft_wrap=True)


def _verdict_table(rows: list[Speedup], title: str) -> Table:
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("Arm", "Against"):
        table.add_column(column)
    for column in ("Speedup", "Interval"):
        table.add_column(column, justify="right")
    table.add_column("Verdict")
    for row in rows:
        table.add_row(*_cells(row), style="bold" if row.primary else "dim" if row.pair.arm.replica else "")
    return table


def _cells(row: Speedup) -> list[str | Text]:
    style = VERDICT_STYLES.get(row.verdict.word, "")
    word = row.verdict.word + (", unmatched" if row.matched is False else "")
    return [
        Text(row.pair.arm.label),
        Text(row.pair.baseline.label),
        f"{row.speedup:.3f}" if row.speedup else "-",
        interval_text(row.interval, "-"),
        Text(word, style),
    ]


def interval_text(interval: Interval | None, between: str = " to ") -> str:
    """Return the bounds with three decimals, or a dash."""
    return f"{interval.low:.3f}{between}{interval.high:.3f}" if interval else "-"


def headline(run: Run, row: Speedup) -> str:
    """Return the sentence that answers the user's question for one Intel stack."""
    arm, baseline = row.pair.arm.label, row.pair.baseline.label
    case = f"{row.pair.case.label}, {row.pair.arm.precision}"
    unseen = run.baselines_not_measured(row.pair)
    case += f"; not measured: {', '.join(unseen)}" if unseen else ""
    where = f"({case}; this machine, this run{'; UNMATCHED environments' if row.matched is False else ''})"
    sure = f", interval {interval_text(row.interval)}" if row.interval else ""
    ratio = f"{row.speedup:.3f}x{sure}" if row.speedup else "no ratio"
    match row.verdict.word:
        case gates.FASTER:
            return f"{arm} is faster than {baseline}: {ratio} {where}."
        case gates.SLOWER:
            return f"{arm} is slower than {baseline}: {ratio} {where}."
        case gates.EQUIVALENT:
            return f"{arm} is as fast as {baseline}, to within 2 %: {ratio} {where}."
        case gates.WITHHELD:
            return f"{arm} against {baseline}: withheld; {row.verdict.reason} {where}."
        case word:
            return f"{arm} against {baseline}: {word.lower()}, {ratio}; {row.verdict.reason} {where}."


def case_title(run: Run, case: Case) -> str:
    """Return the title of a case's tables, which names data that is not the real one."""
    return case.label + (" [SYNTHETIC DATA]" if run.data == "synthetic" else "")


def doubtful_twins(run: Run) -> list[str]:
    """Return one line for each case in which the harness sees a difference between the baseline and itself."""
    return [
        f"{row.pair.case.label}: the A/A interval excludes 1; do not trust differences of that size here"
        for row in run.speedups
        if row.pair.arm.replica and row.interval and row.interval.excludes(1)
    ]


def troubles(run: Run) -> list[str]:
    """Return one line for each thing that failed, and for each gate that tripped."""
    lines = [_trouble(arm, case, status) for arm, case, status in failed(run)]
    lines += [f"{row.pair.arm.label} against {row.pair.baseline.label}: {row.verdict.reason}" for row in withheld(run)]
    if run.end is None or run.end.status == "interrupted":
        lines.append("the run was interrupted: this is the report of what was measured until then")
    return lines


def _trouble(arm: Arm, case: Case, status: dict[str, Any]) -> str:
    lost = f"{status['failed_blocks']} blocks failed" if status["failed_blocks"] else "failed"
    return f"{arm.label}, {case.label}: {lost}: {status['reason']}"


def attribution_sentence(found: Attribution) -> str:
    """Return the sentence that says how much of a gain is the extension's own."""
    rungs, where = found.rungs, f"({found.case.label}; this machine, this run)"
    row, total = found.extension, found.fp32_total
    if row is None or row.estimate is None or total is None:
        last = rungs[-1]
        ratio = f"{last.total.speedup:.2f}x" if last.total else "no ratio"
        return f"{found.name}: from {rungs[0].arm.label} to {last.arm.label} {ratio} {where}."
    arm, own = row.pair.arm.label, f"{row.estimate.speedup:.3f}x{_sure(row)}"
    whole = f"{found.name}: {arm} is {total.speedup:.2f}x as fast as {rungs[0].arm.label}"
    over = f"over the strongest vanilla arm, {row.pair.baseline.label}, it is {own}"
    part = "there is no gain to share out" if found.share is None else f"{found.share:.0%} of the gain on the log scale"
    return f"{whole}; {over}: {part} {where}."


def _sure(row: Speedup) -> str:
    return f" ({interval_text(row.interval)})" if row.interval else ""
