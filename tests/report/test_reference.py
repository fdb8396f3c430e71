"""The reference runs: what README and documentation show of them is what their journals say."""

import io
import shutil

import pytest
from rich.console import Console

from bench.report.run_report import exit_status, write_report
from conftest import ROOT

FOLDERS = sorted((ROOT / "results").glob("reference*"))


@pytest.fixture(params=FOLDERS, ids=[folder.name for folder in FOLDERS])
def folder(request):
    return request.param


def test_its_report_is_rebuilt_byte_for_byte(tmp_path, folder) -> None:
    for name in ("run.json", "journal.jsonl.gz"):
        shutil.copy(folder / name, tmp_path)
    assert exit_status(write_report(tmp_path, Console(file=io.StringIO()))) == 0
    committed = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    rebuilt = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert rebuilt.keys() == committed.keys()
    assert [str(name) for name in rebuilt if rebuilt[name] != committed[name]] == []


def test_it_is_small(folder) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000
