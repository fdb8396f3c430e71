r"""LaTeX that a strict parser accepts, whatever the names are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pylatexenc.latex2text import LatexNodes2Text
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker

from bench.exports.latex import escape_latex, latex_table, to_latex
from bench.report.document import text_table
from bench.suite.arms import Arm
from tests.analysis.recorded_run import JIT, inference_run

HOSTILE = r"\input{/etc/passwd} & 5% $x_1^2$ #~ }{ \\ [1cm]"


def environments(text: str) -> list[str]:
    """Return the environments in a text, of which the parser refuses what is not balanced."""
    nodes, _, _ = LatexWalker(text, tolerant_parsing=False).get_latex_nodes()
    found = []
    while nodes:
        node = nodes.pop(0)
        if isinstance(node, LatexEnvironmentNode):
            found.append(node.environmentname)
            nodes = [*node.nodelist, *nodes]
    return found


def test_a_run_is_a_table_for_each_case(tmp_path) -> None:
    text = to_latex(inference_run(tmp_path / "run").read())["speedups.tex"]
    assert environments(text) == ["table", "tabular"]
    rows = [line for line in text.splitlines() if line.endswith(r" \\")]
    assert rows[0] == r"Arm & Baseline & Speedup & 95 \% interval & Verdict \\"
    assert rows[1].startswith(r"\textbf{ipex jit} & \textbf{pytorch compile} & \textbf{1.34")
    assert {row.count("&") for row in rows} == {4}


def test_names_can_not_break_out(tmp_path) -> None:
    run = inference_run(tmp_path / "run").replace_arm(JIT, Arm("ipex", HOSTILE)).read()
    text = to_latex(run)["speedups.tex"]
    assert environments(text) == ["table", "tabular"]
    assert r"\input" not in text
    assert r"\textbackslash{}input\{/etc/passwd\} \& 5\% \$x\_1\textasciicircum{}2\$" in text


@given(st.text())
def test_any_text_is_text(text) -> None:
    shown = escape_latex(text)
    assert "\n" not in shown
    cells = latex_table(text_table((text,), [(text,)]))
    assert environments(cells) == ["table", "tabular"]


@pytest.mark.parametrize("text", [HOSTILE, "a_b", "100 %", "back\\slash {braces}", "[1] *2*"])
def test_escaped_text_reads_as_it_was(text) -> None:
    # The reader has a circumflex of its own.
    assert LatexNodes2Text().latex_to_text(escape_latex(text)).strip().replace("ˆ", "^") == text  # noqa: RUF001
