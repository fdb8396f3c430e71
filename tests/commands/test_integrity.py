import re

import pytest

from bench.journal import JOURNAL, RUN
from bench.processes.lock import only_command_in
from tests.analysis.recorded_run import inference_run


@pytest.fixture
def run(tmp_path):
    return inference_run(tmp_path / "run").write()


def test_a_run_as_it_was_written_is_verified(bench, run) -> None:
    shown = bench("verify", "run")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"run: as it was written: [\d,]+ records", shown.stdout)
    assert "how it ended: complete" in shown.stdout


def test_verify_names_the_line_that_was_changed(bench, run) -> None:
    lines = (run / JOURNAL).read_text().splitlines(keepends=True)
    number = next(index for index, line in enumerate(lines) if '"kind":"slice"' in line)
    lines[number] = lines[number].replace('"load":0', '"load":1')
    (run / JOURNAL).write_text("".join(lines))
    shown = bench("verify", "run")
    assert shown.returncode == 1
    assert f"journal.jsonl, line {number + 1}: it was changed" in " ".join(shown.stdout.split())
    bench("report", "run")
    assert f"line {number + 1}: it was changed" in (run / "report.md").read_text()


def test_verify_names_tables_that_were_changed(bench, run) -> None:
    bench("report", "run")
    assert "derives" not in bench("verify", "run").stdout
    table = run / "speedups.csv"
    table.write_text(table.read_text().replace("2", "9"))
    assert "speedups.csv: is not what this version derives" in " ".join(bench("verify", "run").stdout.split())


def test_verify_of_something_else_is_one_line(bench, tmp_path, run) -> None:
    (run / JOURNAL).write_text("")
    shown = bench("verify", "run")
    assert shown.returncode == 2
    assert "has no links" in shown.stderr
    assert bench("verify", "nothing").stderr.startswith(f"bench: nothing/{RUN}: not there")


def test_a_withdrawn_run_stays_and_claims_nothing(bench, run) -> None:
    bench("report", "run")
    assert "FASTER" in (run / "speedups.csv").read_text()
    shown = bench("withdraw", "run", "--why", "the fan <b>failed</b>")
    assert shown.returncode == 0, shown.stderr
    assert "FASTER" not in (run / "speedups.csv").read_text()
    markdown, page = (run / "report.md").read_text(), (run / "report.html").read_text()
    assert re.search(r"WITHDRAWN on \d{4}-\d\d-\d\d: the fan", markdown)
    assert "~~" in markdown
    assert 'class="withdrawn"' in page
    assert "This run was withdrawn" in shown.stdout
    assert "Where the gain comes from" not in markdown
    assert "<b>failed" not in page
    again = bench("withdraw", "run", "--why", "again")
    assert (again.returncode, "was withdrawn on" in again.stderr) == (2, True)
    assert "`bench report` writes its report again" in again.stderr
    assert bench("verify", "run").returncode == 0


def test_nothing_is_written_to_a_run_that_is_under_way(bench, run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    with only_command_in(run):
        for arguments in (["report", "run"], ["withdraw", "run", "--why", "early"]):
            done = bench(*arguments)
            assert (done.returncode, done.stderr) == (2, "bench: run: a run is writing to it; wait for its end\n")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    with only_command_in(run, shared=True):
        assert bench("report", "run").returncode == 0


@pytest.mark.parametrize("why", ["", " ", "x" * 501, "a\x1b[31m"])
def test_a_withdrawal_needs_a_reason_that_can_be_shown(bench, run, why) -> None:
    shown = bench("withdraw", "run", "--why", why)
    assert (shown.returncode, "--why: allowed: 1 to 500 printable characters" in shown.stderr) == (2, True)


def test_a_damaged_withdrawal_is_one_line(bench, run) -> None:
    (run / "withdrawn.json").write_text('{"date": 1}')
    shown = bench("report", "run")
    assert (shown.returncode, "withdrawn.json: can't be read" in shown.stderr) == (2, True)


def test_a_withdrawn_run_is_compared_with_nothing(bench, run, tmp_path) -> None:
    slower = inference_run(tmp_path / "slower", jit=200_000, seed=3)
    slower.describe(started="2026-02-01T00:00:00+00:00").write()
    gate = ("compare", "run", "slower", "--fail-if-slower", "5%")
    assert bench(*gate).returncode == 1
    bench("withdraw", "run", "--why", "the fan failed")
    shown = bench(*gate)
    assert shown.returncode == 0, shown.stderr
    assert "withdrawn: " in shown.stdout
    done = bench("convert", "run", "--to", "bencher", "--output", "out")
    assert "speedup" not in (tmp_path / "out" / "bencher" / "bencher.json").read_text(), done.stdout


def test_a_withdrawn_run_is_struck_out_in_comparisons_and_in_the_history(bench, run, tmp_path) -> None:
    for number in (2, 3):
        later = inference_run(tmp_path / f"later{number}", seed=number)
        later.describe(started=f"2026-0{number}-01T00:00:00+00:00").write()
    killed = inference_run(tmp_path / "killed", seed=4).describe(started="2026-04-01T00:00:00+00:00").write()
    lines = (killed / JOURNAL).read_text().splitlines(keepends=True)
    (killed / JOURNAL).write_text("".join(lines[:-1]))
    bench("withdraw", "run", "--why", "the fan failed")
    shown = bench("history", "--results", ".", "--output", "h.md", "--output", "h.csv")
    assert shown.returncode == 0, shown.stderr
    page = (tmp_path / "h.md").read_text()
    assert re.search(r"\| ~~run~~ \| ~~.*~~ \| ~~withdrawn on .*: the fan failed~~ \|", page)
    assert re.search(r"\| killed \| .* \| did not end; its finished blocks count \|", page)
    assert "the fan failed" in " ".join(shown.stdout.split())
    assert {line.split(",")[1] for line in (tmp_path / "h.csv").read_text().splitlines()[1:]} == {
        "later2", "later3", "killed",
    }  # fmt: skip
    bench("compare", "run", "later2", "--output", "c.md")
    assert "~~" in (tmp_path / "c.md").read_text()
