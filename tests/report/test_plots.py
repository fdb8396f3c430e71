"""No plot can cost the report: not a name with dollars, not a personal style, not Matplotlib itself."""

import io
import re
import sys

import matplotlib as mpl
import numpy as np
import pytest
from rich.console import Console

from bench.report import plots as module
from bench.report.document import Drawn, drawn_by
from bench.report.plot_style import draw_all
from bench.report.run_report import write_report
from bench.report.training_plots import roc, trials_plot
from bench.suite.arms import Arm
from bench.training.evaluate import Evaluation
from bench.training.tune import Trained
from tests.analysis.recorded_run import COMPILE, EAGER, inference_run, ladder_info

DOLLARS = "costs $2, or $x^{ with \\frac"


def run_with(folder, step):
    return (
        inference_run(folder).describe(ladders=(ladder_info("ladder", [("as it is", EAGER), (step, COMPILE)]),)).write()
    )


def report(folder) -> str:
    """Write a report; return what it says on the console."""
    console = Console(file=io.StringIO(), width=200)
    write_report(folder, console)
    return console.file.getvalue()


def test_a_dollar_in_a_name_is_no_mathematics(tmp_path) -> None:
    folder = run_with(tmp_path / "run", DOLLARS)
    assert "could not be drawn" not in report(folder)
    assert DOLLARS in (folder / "plots" / "attribution.svg").read_text()


def test_a_personal_style_changes_no_plot(tmp_path) -> None:
    folder = run_with(tmp_path / "run", "compile")
    report(folder)
    plain = {path.name: path.read_text() for path in (folder / "plots").iterdir()}
    with mpl.rc_context({"text.usetex": True, "font.family": ["fantasy"], "lines.linewidth": 9, "axes.grid": False}):
        assert "could not be drawn" not in report(folder)
    assert {path.name: path.read_text() for path in (folder / "plots").iterdir()} == plain


def test_a_report_without_a_plot_is_complete_and_says_so(tmp_path, monkeypatch) -> None:
    def fail(_):
        raise RuntimeError("Failed to process\nstring with tex")

    monkeypatch.setattr(module, "latencies", fail)
    folder = run_with(tmp_path / "run", "compile")
    reason = "The plot latencies.svg could not be drawn: RuntimeError: Failed to process string with tex"
    assert reason in report(folder)
    for name in ("report.md", "report.html"):
        page = (folder / name).read_text()
        assert re.sub(r"\\(.)", r"\1", page).count(reason) == 1
        assert "plots/latencies.svg" not in page
    assert {path.name for path in (folder / "plots").iterdir()} == {"speedups.svg", "attribution.svg", "blocks.svg"}
    assert (folder / "arms.csv").read_text().count("\n") > 1


def test_a_report_is_written_where_matplotlib_can_not_be_imported(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bench.report.plots", None)
    folder = run_with(tmp_path / "run", "compile")
    assert "The plot of every figure could not be drawn: ModuleNotFoundError" in report(folder)
    assert (folder / "report.html").exists()
    assert (folder / "speedups.csv").exists()
    assert list((folder / "plots").iterdir()) == []


def test_a_function_that_draws_may_raise_anything() -> None:
    def fail() -> Drawn:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "matplotlibrc")

    assert drawn_by(fail).svgs == {}
    assert "UnicodeDecodeError" in drawn_by(fail).warnings[0]


@pytest.mark.parametrize("name", ["roc", "trials"])
def test_no_tick_is_written_as_mathematics(name) -> None:
    truth = np.arange(200) % 10
    logits = np.random.RandomState(1).standard_normal((200, 10))
    trained = [Trained(number, {"learning_rate": 10.0**-number, "batch_size": 32}, 0.9) for number in (1, 2, 3)]
    figures = {
        "roc": lambda: roc([Evaluation(Arm("toy", "good"), logits, truth)]),
        "trials": lambda: trials_plot(trained),
    }
    drawn = draw_all({name: figures[name]})
    assert drawn.failures == {}
    assert "$" not in drawn.svgs[name]
    assert ">0.01<" in drawn.svgs[name]
