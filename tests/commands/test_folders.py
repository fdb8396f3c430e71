"""The folder of a run: its report comes before its link, and no error forgets what was measured."""

import errno
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bench.commands import run as commands
from bench.commands.folders import kept_records, link_latest, run_folder
from bench.suite.plan import make_plan
from models.errors import UserError
from tests.engine.conftest import PRESET, SUITE
from tests.shortened import IMAGES, shorten_preparations

KEPT = "all that was measured is kept: `python -m bench report {}` writes its report"


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=200)


def refuse_links(monkeypatch):
    def refuse(path, _):
        raise OSError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(Path, "symlink_to", refuse)


def test_the_link_moves_from_run_to_run(tmp_path, console) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        link_latest(tmp_path / name, console)
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "latest"}
    assert console.file.getvalue() == ""


def test_a_file_system_without_links_is_one_line(tmp_path, console, monkeypatch) -> None:
    (tmp_path / "one").mkdir()
    refuse_links(monkeypatch)
    link_latest(tmp_path / "one", console)
    assert console.file.getvalue() == (
        f"{tmp_path}/latest does not point to this run (Operation not permitted): name {tmp_path}/one instead\n"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"one"}


@pytest.fixture
def measure(tmp_path, console, monkeypatch):
    """Return a function that measures the oracle against itself, briefly; it returns the exit status."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shorten_preparations(IMAGES, monkeypatch.setattr)
    plan = make_plan(SUITE, PRESET, seed=1, threads=1)
    return lambda: commands.measure(plan, "synthetic", tmp_path / "results", "r", console)[0]


def test_a_run_into_a_folder_without_links_has_its_report(measure, tmp_path, console, monkeypatch) -> None:
    refuse_links(monkeypatch)
    assert measure() == 0
    assert (tmp_path / "results" / "r" / "report.html").exists()
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"r"}
    assert "latest does not point to this run" in console.file.getvalue()


def test_a_report_that_fails_is_made_later_and_latest_does_not_point_to_it(
    measure, tmp_path, console, monkeypatch
) -> None:
    folder = tmp_path / "results" / "r"

    def fail(*_):
        raise ZeroDivisionError("by zero")

    with monkeypatch.context() as patched:
        patched.setattr("bench.report.run_report.document", fail)
        with pytest.raises(UserError) as raised:
            measure()
    log = folder / "logs" / "bench.log"
    assert str(raised.value) == f"ZeroDivisionError: by zero (see {log}); {KEPT.format(folder)}"
    assert "Traceback" in log.read_text()
    assert not (tmp_path / "results" / "latest").exists()
    assert commands.report_run(folder, None, console) == 0
    assert (folder / "report.html").exists()


def test_an_error_says_that_the_records_are_kept_only_if_there_are_any(tmp_path) -> None:
    def fail():
        with kept_records(tmp_path):
            raise UserError("the disk is full")

    with pytest.raises(UserError, match=r"^the disk is full$"):
        fail()
    (tmp_path / "journal.jsonl").write_text("{}\n")
    with pytest.raises(UserError) as raised:
        fail()
    assert str(raised.value) == f"the disk is full; {KEPT.format(tmp_path)}"


@pytest.mark.parametrize("records", ["", "{}\n"])
def test_an_interrupted_folder_is_removed_unless_something_was_measured(tmp_path, records) -> None:
    def interrupt():
        with run_folder(tmp_path, "r") as folder:
            (folder / "journal.jsonl").write_text(records)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert (tmp_path / "r").exists() == bool(records)


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EACCES, "make it accessible to you"),
        (errno.EROFS, "mount it with write access"),
    ],
)
def test_a_folder_that_can_not_be_made_comes_with_the_remedy_for_its_reason(
    tmp_path, monkeypatch, number, remedy
) -> None:
    def refuse(*_, **__):
        raise OSError(number, "reason")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=rf"r: can't be made \(reason\); {remedy}, or name a writable folder"):
        run_folder(tmp_path, "r").__enter__()


@pytest.mark.parametrize("names", [[], ["run.json"], ["run.json", "journal.jsonl", "logs"], [".run.partial.json"]])
def test_a_folder_of_a_run_that_was_killed_before_it_measured_is_taken(tmp_path, names) -> None:
    (tmp_path / "r").mkdir()
    for name in names:
        (tmp_path / "r" / name).touch()
    with run_folder(tmp_path, "r") as folder:
        assert not (folder / "journal.jsonl").exists()


@pytest.mark.parametrize(("name", "content"), [("journal.jsonl", "{}\n"), ("report.html", ""), ("notes.txt", "")])
def test_a_folder_that_holds_anything_else_is_refused_and_kept(tmp_path, name, content) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / name).write_text(content)
    with pytest.raises(UserError, match="r: exists already"), run_folder(tmp_path, "r"):
        pass
    assert [path.name for path in (tmp_path / "r").iterdir()] == [name]


def test_a_link_that_a_killed_process_left_is_replaced(tmp_path, console) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / ".latest.one").symlink_to("nowhere")
    link_latest(tmp_path / "one", console)
    assert (tmp_path / "latest").resolve() == tmp_path / "one"
    assert {path.name for path in tmp_path.iterdir()} == {"one", "latest"}
