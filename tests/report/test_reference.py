"""The reference runs: what README and documentation show of them is what their journals say."""

import io
import shutil

import pytest
from rich.console import Console

from bench.commands.claims import CLAIMS_PAGE, CLAIMS_TABLE, compare_claims
from bench.report.run_report import exit_status, write_report
from conftest import ROOT

CLAIMS = ROOT / "results" / "reference-claims"
FOLDERS = sorted(file.parent for file in (ROOT / "results").glob("reference*/**/run.json"))


@pytest.fixture(params=FOLDERS, ids=[str(folder.relative_to(ROOT / "results")) for folder in FOLDERS])
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


def test_the_verdicts_on_claims_follow_from_what_was_measured(tmp_path) -> None:
    shutil.copytree(CLAIMS, tmp_path / CLAIMS.name, ignore=shutil.ignore_patterns(CLAIMS_TABLE, CLAIMS_PAGE))
    # 1: not all claims were tested.
    assert compare_claims(None, tmp_path / CLAIMS.name, "auto", Console(file=io.StringIO())) == 1
    for name in (CLAIMS_TABLE, CLAIMS_PAGE):
        assert (tmp_path / CLAIMS.name / name).read_text() == (CLAIMS / name).read_text()


def test_it_is_small(folder) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 5_000_000
