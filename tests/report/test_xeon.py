"""A run of a server with AMX: 16 cores, recorded by an early version, and interrupted after two blocks."""

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from bench.analysis.attribution import attributions
from bench.analysis.run import Run
from bench.analysis.speedups import failed
from bench.report.run_report import write_report
from tests.report.pages import read_html, read_markdown

RECORDED = Path(__file__).parent / "xeon"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("xeon")
    return shutil.copytree(RECORDED, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def run(folder):
    return Run(folder)


def test_amx_multiplied_in_every_arm_of_a_lower_precision(run) -> None:
    assert not failed(run)
    used = {(arm.id, case.batch_size): run.instructions(arm, case) for case in run.cases for arm in run.arms}
    lower = {place: name for place, name in used.items() if place[0].endswith(("bf16", "int8"))}
    assert len(lower) == 6
    assert set(lower.values()) == {"AMX"}
    assert used["ipex/jit", 64] == used["openvino/latency", 64] == "AVX-512"


def test_the_ladders_have_a_step_with_amx(run) -> None:
    last = {(ladder.name, ladder.case.batch_size): ladder.rungs[-1].name for ladder in attributions(run)}
    assert last["ipex", 64] == "bf16 (AMX)"
    assert last["openvino", 64] == "int8 (AMX)"


def test_its_report_names_the_microarchitecture_and_claims_nothing(folder) -> None:
    write_report(folder, Console(file=io.StringIO(), width=80))
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert read_markdown(markdown) == read_html(page)
    assert "Intel(R) Xeon(R) Processor (Emerald Rapids), 16 threads" in markdown
    assert "FASTER" not in {row[-1] for kind, rows in read_markdown(markdown) if kind == "table" for row in rows}
    assert "interrupted after" in markdown
