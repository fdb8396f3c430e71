import errno
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import journal as journal_module
from bench.journal import Journal, read_journal, read_run, write_whole
from bench.records import KINDS, End, Failure, Overhead, RecordError, from_line, to_line
from models.errors import UserError

FAILURE = Failure("toy/good", "c", 3, "died | at\n once", skipped=False)


def test_records_survive_the_journal(tmp_path) -> None:
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(FAILURE)
        journal.append(Overhead((1, 2, 3)))
    assert read_journal(tmp_path) == [FAILURE, Overhead((1, 2, 3))]


def test_a_line_that_was_never_finished_is_left_out(tmp_path) -> None:
    (tmp_path / "journal.jsonl").write_text(to_line(FAILURE) + "\n" + to_line(FAILURE)[:30])
    assert read_journal(tmp_path) == [FAILURE]


@pytest.mark.parametrize(
    "line",
    [
        "rubbish",
        "[]",
        '{"kind":"other"}',
        '{"kind":"end"}',
        '{"kind":"end","status":1}',
        '{"kind":"end","status":"x","wall_ns":NaN}',
        '{"kind":"overhead","samples_ns":["1"]}',
        "[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line) -> None:
    (tmp_path / "journal.jsonl").write_text(f"{to_line(FAILURE)}\n{line}\n")
    with pytest.raises(UserError, match=r"journal\.jsonl, line 2: "):
        read_journal(tmp_path)


@given(st.text(max_size=80) | st.dictionaries(st.sampled_from(["kind", "status", "arm"]), st.text()).map(json.dumps))
def test_no_line_makes_the_reader_crash(line) -> None:
    with pytest.raises(RecordError):
        from_line(line)


def test_every_kind_has_its_own_name() -> None:
    assert len(KINDS) == len(set(KINDS.values()))


@pytest.mark.parametrize("written", [0, 10])
def test_a_full_disk_leaves_whole_lines_and_one_clear_error(tmp_path, monkeypatch, written) -> None:
    real = os.write
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(FAILURE)

        def full(descriptor, content):
            if written and len(content) > written:
                return real(descriptor, content[:written]) if content.startswith(b"{") else fail()
            return fail()

        def fail():
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(journal_module.os, "write", full)
        with pytest.raises(UserError, match=r"journal\.jsonl: No space left on device; .*free space"):
            journal.append(End("complete", 1))
        monkeypatch.undo()
    assert (tmp_path / "journal.jsonl").read_text() == to_line(FAILURE) + "\n"


def test_a_file_that_can_not_be_written_whole_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="No such file"):
        write_whole(tmp_path / "nowhere" / "arms.csv", "text")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="name the folder of a run"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[")
    with pytest.raises(UserError, match="can't be read"):
        read_run(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match="reads schema 2"):
        read_run(tmp_path)
