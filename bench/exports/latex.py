"""The speedups of a run as LaTeX tables, for the packages booktabs and inputenc or a Unicode engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.analysis.speedups import speedups
from bench.report.document import brief_table
from bench.report.tables import speedup_columns, speedup_emphasis
from bench.report.text import case_title

if TYPE_CHECKING:
    from bench.analysis.run import Run
    from bench.report.document import Table

ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", '"': r"\textquotedbl{}", **{character: f"\\{character}" for character in "&%$#_{}"},
    # After the end of a row these two would be its arguments.
    "[": "{[}", "*": "{*}",
}  # fmt: skip


def to_latex(run: Run) -> dict[str, str]:
    """Return one file with a table for each case: the verdicts as on the console."""
    tables = [
        latex_table(
            brief_table(
                [row for row in speedups(run) if row.pair.case == case],
                speedup_columns(run, case),
                speedup_emphasis,
                case_title(run, case),
            )
        )
        for case in run.cases
    ]
    return {"speedups.tex": "% Needs: \\usepackage{booktabs}\n\n" + "\n".join(tables)}


def latex_table(table: Table) -> str:
    """Return a floating table; the rows of primary comparisons are bold."""
    alignment = "".join("r" if heading.numeric else "l" for heading in table.headings)
    lines = [
        r"\begin{table}",
        rf"\caption{{{escape_latex(table.title)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(escape_latex(heading.title) for heading in table.headings) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        cells = [escape_latex(cell.text) for cell in row.cells]
        if row.emphasis == "primary":
            cells = [rf"\textbf{{{cell}}}" for cell in cells]
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape_latex(text: str) -> str:
    """Return text on one line in which nothing is a command."""
    printable = (character if character.isprintable() else " " for character in " ".join(text.split()))
    return "".join(ESCAPES.get(character, character) for character in printable)
