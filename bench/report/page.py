"""The report as Markdown and as one self-contained HTML file, from the same sections."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.analysis import gates
from bench.analysis.attribution import attributions
from bench.analysis.roofline import reaches
from bench.analysis.scaling import BATCH_SIZE, sweeps
from bench.analysis.tradeoffs import tradeoffs
from bench.analysis.training import GOALS, trained_arms
from bench.console import duration
from bench.records import Evidence
from bench.report.summary import (
    attribution_sentence,
    case_title,
    doubtful_twins,
    headline,
    interval_text,
    troubles,
)
from bench.report.tables import foreign_share, harness_share, idle_share, speedup_rows
from bench.suite.arms import LATENCY, TRAINING
from models.data import SYNTHETIC_WARNING

if TYPE_CHECKING:
    from jinja2 import Environment

    from bench.analysis.gates import Estimate
    from bench.analysis.speedups import Run, Speedup
    from bench.analysis.training import Difference, TrainedArm
    from bench.records import Proof
    from bench.suite.arms import Arm, Case

TEMPLATES = Path(__file__).parent / "templates"
MARKDOWN, HTML = "report.md", "report.html"
UNTRAINED_WARNING = "UNTRAINED WEIGHTS: {} has no trained checkpoint. Times are valid; accuracies mean nothing."
MICRO = 1e3
TINY = 1e-3  # below it numbers are written with an exponent


def render(run: Run, arms: dict[Case, list[dict[str, Any]]], drawn: dict[str, str]) -> dict[str, str]:
    """Return {file name: text} of report.md and report.html.

    `arms` are the rows of `arm_rows`, `drawn` holds the plots' SVG by file name.
    """
    environment = template_environment()
    content = _content(run, arms) | {"arms": arms, "plots": inline(drawn)}
    return {name: environment.get_template(name).render(content) for name in (MARKDOWN, HTML)}


def template_environment() -> Environment:
    """Return what renders the templates: HTML escaped, unknown names refused, our filters."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "percent": percent,
        "cell": markdown_cell,
        "interval": interval_text,
        "ratio": ratio,
        "reached": reached,
        "points": points,
        "judged": judged,
    }
    return environment


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and no exponent where one reads badly, or a dash."""
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return "-"
    if value == float("inf"):
        return "never"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if abs(value) < TINY else f"{value:#.{digits}g}".rstrip(".")


def ratio(estimate: Estimate | None) -> str:
    """Return a ratio with its interval, or a dash."""
    if estimate is None:
        return "-"
    interval = estimate.ratio_interval
    return f"{estimate.speedup:.3f}" + (f" ({interval_text(interval)})" if interval else "")


def reached(row: TrainedArm, goal: float) -> str:
    """Return the time to an accuracy, and how many of the seeds got there where not all did."""
    typical, count, seeds = row.time_to_ns(goal), len(row.goals[goal]), len(row.final)
    if typical is None:
        return "never" if seeds else "-"
    return number(typical / 1e9) + (f" ({count} of {seeds})" if count < seeds else "")


def judged(row: TrainedArm) -> str:
    """Return what is said of an arm's accuracy beside that of the arm which all are compared with."""
    if row.difference is not None:
        return row.difference.word
    return "the others are compared with it" if row.is_reference else "-"


def points(difference: Difference | None) -> str:
    """Return a difference of accuracies in percentage points, with its interval, or a dash."""
    if difference is None:
        return "-"
    found = difference.interval
    sure = f" ({found.low * 100:+.2f} to {found.high * 100:+.2f})" if found else ""
    return f"{difference.mean * 100:+.2f}{sure}"


def percent(value: float | None, digits: int = 2) -> str:
    """Return a share as a percentage, or a dash."""
    return "-" if value is None else f"{value * 100:.{digits}f} %"


def markdown_cell(value: object) -> str:
    """Return text that can't break out of a Markdown table's cell, nor smuggle in HTML."""
    text = " ".join(str(value).split())
    return re.sub(r"([|\\`*_\[\]<>])", r"\\\1", text)


def _content(run: Run, arms: dict[Case, list[dict[str, Any]]]) -> dict[str, Any]:
    rows = list(zip(run.speedups, speedup_rows(run), strict=True))
    ladders, labels = attributions(run), {arm.id: arm.label for arm in run.arms}
    return {
        "run": run,
        "named": lambda row: labels[row["arm"]],
        "attributions": [(each, attribution_sentence(each)) for each in ladders],
        "tradeoffs": {case: crossed for case in run.cases if (crossed := tradeoffs(run, case))},
        "reaches": {case: reached_by for case in run.cases if (reached_by := reaches(run, case))},
        "sweeps": sweeps(run),
        "BATCH_SIZE": BATCH_SIZE,
        "LATENCY": LATENCY,
        "costs": _costs(run, arms),
        "info": run.info,
        "warnings": _warnings(run),
        "headlines": [headline(run, row) for row in run.speedups if row.primary],
        "no_headline": _no_headline(run),
        "speedups": {case: [row for row in rows if row[0].pair.case == case] for case in run.cases},
        "proofs": [(proof, evidence(proof)) for proof in run.proofs.values()],
        "checks": list(_checks(run)),
        "versions": _versions(run),
        "trained": {case: found for case in run.cases if (found := trained_arms(run, case))},
        "GOALS": GOALS,
        "training": run.info["suite"].get("training"),
        "witnesses": _witnesses(run),
        "title": lambda case: case_title(run, case),
        "latency": lambda arm, case: typical_time(run, arm, case),
    }


def _witnesses(run: Run) -> list[tuple[Evidence, str]]:
    """Return what the first process of each arm that trains has read back, and its kernels."""
    training = {case.id for case in run.cases if case.scenario == TRAINING}
    first: dict[tuple[str, str], Evidence] = {}
    for each in run.of(Evidence):
        if each.case in training:
            first.setdefault((each.arm, each.case), each)
    return [(each, evidence(each)) for each in first.values()]


def _costs(run: Run, arms: dict[Case, list[dict[str, Any]]]) -> dict[str, list[Any]]:
    """Return by model and scenario each arm's row of the first case, and {case: break-even images}."""
    tables: dict[str, list[Any]] = {}
    for group in dict.fromkeys(case.group for case in run.cases):
        cases = [case for case in run.cases if case.group == group]
        rows = zip(*(arms[case] for case in cases), strict=True)
        tables[", ".join(group)] = [
            (each[0], {case: row["break_even_images"] for case, row in zip(cases, each, strict=True)})
            for each in rows
            if not each[0]["replica"] and each[0]["cold_start_s"] is not None
        ]
    return {name: table for name, table in tables.items() if table}


def typical_time(run: Run, arm: Arm, case: Case) -> float | None:
    """Return the typical latency of an arm in microseconds; of one that trains, an epoch's time in seconds."""
    typical = run.typical_latency_ns(arm, case)
    return None if typical is None else typical / (1e9 if case.scenario == TRAINING else MICRO)


def _warnings(run: Run) -> list[str]:
    warnings = [SYNTHETIC_WARNING] if run.data == "synthetic" else []
    untrained = [name for name, model in run.info["models"].items() if not model["trained"]]
    warnings += [UNTRAINED_WARNING.format(name) for name in untrained]
    warnings += [f"{name} was not measured: {reason}" for name, reason in run.info["missing"].items()]
    for pair, found in run.info["mismatches"].items():
        listed = ", ".join(f"{package} {ours} / {theirs}" for package, (ours, theirs) in found.items())
        warnings.append(f"UNMATCHED environments {' and '.join(pair.split())}: {listed}")
    warnings += map(str, run.info.get("advice", []))
    return warnings + doubtful_twins(run) + troubles(run)


def _no_headline(run: Run) -> str:
    if any(row.primary for row in run.speedups):
        return ""
    return "No Intel arm was measured beside its baseline: there is no speedup to report, only absolute times."


def evidence(proof: Proof | Evidence) -> str:
    """Return the kernels that tell one way of running from another: all but the framework's plain operators."""
    told = [
        kernel
        for kernel in proof.kernels
        if "conv" in kernel or not (kernel.startswith("aten::") or "unknown" in kernel)
    ]
    return ", ".join(told) or "the stack names no kernels"


def _checks(run: Run) -> Any:
    """Yield (what, figure, what it should be) for a sceptic."""
    for row in run.speedups:
        if row.pair.arm.replica:
            yield f"A/A ratio, {row.pair.case.label}", _with_interval(row), "1, inside the interval"
    yield "CPU burned by all idle workers while an arm was measured", percent(idle_share(run)), "about 0 % of one core"
    yield "CPU burned by the orchestrator meanwhile", percent(harness_share(run)), "about 0 % of one core"
    if (foreign := foreign_share(run)) is not None:
        yield "CPU used by other processes meanwhile", percent(foreign), "about 0 % of the arms' cores"
    if run.overhead is not None or not run.info["suite"].get("training"):
        yield (
            "Harness overhead per timed call (null backend)",
            _overhead(run),
            f"at most {gates.MAX_OVERHEAD_NS / MICRO:g} us",
        )
    slices = {(each.case, each.block, each.round) for every in run.turns.values() for each in every}
    yield (
        (
            f"Rounds in which over {gates.MAX_TAKEN_SHARE:.0%} of the cores' time was stolen or throttled, or over "
            f"{gates.MAX_FOREIGN_SHARE:.0%} used by other processes"
        ),
        f"{len(run.marked_rounds)} of {len(slices)}",
        "0; the column `without marked` leaves them out",
    )
    if run.info["suite"].get("training"):
        waits = [each.wait_share for case in run.cases for each in trained_arms(run, case)]
        wanted = "under 2 %, with augmentation under 10 %"
        yield "Longest wait for data of an arm, as a share of its epochs", percent(max(waits, default=None)), wanted
    unsteady = [each for every in run.checks.values() for each in every if not each.steady]
    total = sum(len(every) for every in run.checks.values())
    if total:
        yield "Processes that were timed without having reached a steady state", f"{len(unsteady)} of {total}", "0"
    yield "How the run ended", _ending(run), "complete"


def _with_interval(row: Speedup) -> str:
    if row.speedup is None:
        return row.verdict.reason
    return f"{row.speedup:.3f}" + (f" ({interval_text(row.interval)})" if row.interval else "")


def _overhead(run: Run) -> str:
    if run.overhead is None:
        return "not measured"
    return f"{number((run.overhead_ns or 0) / MICRO)} us (median of {len(run.overhead.samples_ns):,} calls)"


def _ending(run: Run) -> str:
    return f"{run.end.status} after {duration(run.end.wall_ns / 1e9)}" if run.end else "killed"


def _versions(run: Run) -> list[tuple[str, dict[str, str]]]:
    """Return {environment: version} of every package, and of Python; packages with one version everywhere last."""
    environments = run.info["environments"]
    names = {"python"} | {name for each in environments.values() for name in each["packages"]}
    table = {
        name: {
            environment: each["python"] if name == "python" else each["packages"].get(name, "")
            for environment, each in environments.items()
        }
        for name in names
    }
    return sorted(table.items(), key=lambda item: (len(set(item[1].values())) == 1, item[0]))


def inline(drawn: dict[str, str]) -> dict[str, str]:
    """Return each plot's SVG by its stem, nothing for one not drawn, with ids made unique for one page."""
    from markupsafe import Markup

    found = defaultdict[str, str](str)
    for name, svg in drawn.items():
        stem = name.removesuffix(".svg")
        body = re.sub(r'(id="|url\(#|xlink:href="#)', rf"\g<1>{stem}-", svg[svg.index("<svg") :])
        found[stem] = Markup(body)  # noqa: S704 - drawn by us, its texts escaped by matplotlib
    return found
