"""Published claims beside what was measured: the table of `bench claims`, and the section of a run's report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.analysis.claims import BEYOND, Accuracy, ClaimResult, Ratio, claims_about
from bench.report.document import Cell, Code, Column, Paragraph, Section, table

if TYPE_CHECKING:
    from bench.analysis.run import Run

SPEEDUP_RULE = (
    "A claimed speedup is reproduced if it is not above the measured interval, with both arms measured together on "
    "this machine; of a published range the lower end. The measurement is beyond the claim if the interval lies above "
    "all of the range. Claims of vendors are about other networks and CPUs: they show the kind, not the value."
)
ACCURACY_RULE = (
    "A claimed accuracy is reproduced if the measured mean is at most two standard errors of the test images below it."
)


def _verdict(verdict: str) -> Cell:
    return Cell(verdict, verdict.partition(":")[0])


def _brief_verdict(verdict: str) -> Cell:
    """Return the verdict with a reason as a footnote."""
    word, _, reason = verdict.partition(": ")
    return Cell(verdict, word) if verdict == BEYOND else Cell(word, word, reason)


def _published(result: ClaimResult) -> str:
    criterion = result.claim.criterion
    if isinstance(criterion, Accuracy):
        return f"{criterion.low:.2%}"
    return criterion.text if isinstance(criterion, Ratio) else ""


CLAIM_COLUMNS: tuple[Column[ClaimResult], ...] = (
    Column("source", lambda result: result.claim.source, "Source", numeric=False, brief=True),
    Column("claim", lambda result: result.claim.statement, "Claim", numeric=False, brief=True),
    Column("published", _published, "Published", numeric=False, brief=True),
    Column("measured", lambda result: result.measured, "Measured here", numeric=False, brief=True),
    Column("verdict", lambda result: result.verdict, "Verdict", _verdict, numeric=False, brief=True),
    Column("from", lambda result: result.origin, "From", numeric=False),
)


def claims_section(run: Run) -> Section | None:
    """Return what has been published about arms of this run, beside what it measured; None if it has no such arms."""
    results = claims_about(run)
    if not results:
        return None
    shown = [column for column in CLAIM_COLUMNS if column.key not in ("verdict", "from")]
    verdict: Column[ClaimResult] = Column("", lambda result: result.verdict, "Verdict", _brief_verdict, numeric=False)
    explanation = (
        f"""Published speedups of arms that this run measured. {SPEEDUP_RULE} A claim about another case is not judged:
        beside it stands what was measured in the most similar cases. """,
        Code("python -m bench claims"),
        " measures the cases of all claims.",
    )

    def facets(result: ClaimResult) -> dict[str, str]:
        ratio = result.claim.criterion
        return {"stack": ratio.arm.stack} if isinstance(ratio, Ratio) else {}

    return Section("Published claims", (Paragraph(explanation), table(results, [*shown, verdict], facets=facets)))
