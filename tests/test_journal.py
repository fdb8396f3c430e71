import errno
import gzip
import os
import re

import pytest

from bench import journal as journal_module
from bench.journal import (
    RUN,
    Journal,
    broken_link,
    disk_error,
    has_records,
    read_journal,
    write_atomically,
    write_pages,
)
from bench.records import End, Failure, Overhead, to_line
from models.errors import UserError

FAILURE = Failure("toy/good", "c", 3, "died | at\n once", skipped=False)


def test_records_survive_the_journal(tmp_path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(FAILURE)
        journal.append(Overhead((1, 2, 3)))
    assert read_journal(tmp_path) == [FAILURE, Overhead((1, 2, 3))]


def test_a_line_that_was_never_finished_is_left_out(tmp_path) -> None:
    (tmp_path / "journal.jsonl").write_text(to_line(FAILURE) + "\n" + to_line(FAILURE)[:30])
    assert read_journal(tmp_path) == [FAILURE]


def test_what_editors_leave_is_no_damage(tmp_path) -> None:
    line = to_line(FAILURE)
    (tmp_path / "journal.jsonl").write_text(f"\ufeff{line}\n\n{line}\n \n", encoding="utf-8")
    assert read_journal(tmp_path) == [FAILURE, FAILURE]


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
def test_the_error_names_a_line_that_is_not_a_record(tmp_path, line) -> None:
    (tmp_path / "journal.jsonl").write_text(f"{to_line(FAILURE)}\n{line}\n")
    with pytest.raises(UserError, match=r"journal\.jsonl, line 2: "):
        read_journal(tmp_path)


@pytest.mark.parametrize("written", [0, 10])
def test_a_full_disk_leaves_whole_lines_and_one_clear_error(tmp_path, monkeypatch, written) -> None:
    real = os.write
    with Journal(tmp_path) as journal:
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
    assert read_journal(tmp_path) == [FAILURE]
    assert (tmp_path / "journal.jsonl").read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EDQUOT, "larger quota"),
        (errno.EACCES, "make it accessible"),
        (errno.EROFS, "mount it with write access"),
        (errno.EIO, "check the disk"),
    ],
)
def test_the_remedy_of_a_disk_error_fits_its_reason(tmp_path, number, remedy) -> None:
    error = disk_error(tmp_path / "run.json", OSError(number, os.strerror(number)))
    assert str(error).startswith(f"{tmp_path / 'run.json'}: {os.strerror(number)}; ")
    assert remedy in str(error)
    assert str(error).endswith(", or name another folder")
    assert ("free space" in str(error)) == (number in (errno.ENOSPC, errno.EDQUOT))


def test_an_interrupt_leaves_no_half_line(tmp_path, monkeypatch) -> None:
    real = os.write

    def interrupted(descriptor, content):
        real(descriptor, content[:10])
        raise KeyboardInterrupt

    with Journal(tmp_path) as journal:
        journal.append(FAILURE)
        monkeypatch.setattr(journal_module.os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.append(FAILURE)
        monkeypatch.undo()
    assert read_journal(tmp_path) == [FAILURE]


@pytest.mark.parametrize("is_linked", [False, True])
def test_an_interrupt_between_a_line_and_its_link_breaks_no_chain(tmp_path, is_linked) -> None:
    class Interrupted(Journal):
        """A journal that a signal interrupts once: after a line was written, before or after its link is stored."""

        is_armed = False

        def __setattr__(self, name, value) -> None:
            if name == "_link" and self.is_armed:
                object.__setattr__(self, "is_armed", False)
                if is_linked:
                    object.__setattr__(self, name, value)
                raise KeyboardInterrupt
            object.__setattr__(self, name, value)

    with Interrupted(tmp_path) as journal:
        journal.append(FAILURE)
        journal.is_armed = True
        with pytest.raises(KeyboardInterrupt):
            journal.append(FAILURE)
        journal.append(End("interrupted", 1))
    assert read_journal(tmp_path) == [FAILURE, End("interrupted", 1)]
    assert broken_link(tmp_path) is None


def test_a_journal_is_never_overwritten(tmp_path) -> None:
    with Journal(tmp_path), pytest.raises(FileExistsError):
        Journal(tmp_path)


@pytest.mark.parametrize("content", [None, b"\xff\n"])
def test_a_journal_that_can_not_be_read_is_one_error(tmp_path, content) -> None:
    if content:
        (tmp_path / "journal.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"journal\.jsonl: can't be read"):
        read_journal(tmp_path)


def test_a_compressed_journal_is_read_and_checked_as_before(tmp_path) -> None:
    written(tmp_path)
    records, path = read_journal(tmp_path), tmp_path / "journal.jsonl"
    (tmp_path / "journal.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert read_journal(tmp_path) == records
    assert broken_link(tmp_path) is None
    assert has_records(tmp_path)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"text" + raw, lambda raw: raw[:12] + raw[13:]])
def test_a_damaged_compressed_journal_is_one_error(tmp_path, damage) -> None:
    written(tmp_path, 200)
    path = tmp_path / "journal.jsonl"
    (tmp_path / "journal.jsonl.gz").write_bytes(damage(gzip.compress(path.read_bytes())))
    path.unlink()
    for read in (read_journal, broken_link):
        with pytest.raises(UserError, match=r"journal\.jsonl\.gz: can't be read"):
            read(tmp_path)


@pytest.mark.parametrize("separator", ["\r", "\x0b", "\x85", "\u2028"])
def test_only_a_line_feed_ends_a_line(tmp_path, separator) -> None:
    (tmp_path / "journal.jsonl").write_text(to_line(FAILURE) + separator + to_line(FAILURE) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 1: is not JSON"):
        read_journal(tmp_path)


def test_a_file_that_can_not_be_completed_is_not_there(tmp_path) -> None:
    with pytest.raises(UserError, match="No such file"):
        write_atomically(tmp_path / "nowhere" / "arms.csv", "text")
    assert list(tmp_path.iterdir()) == []


def test_the_plots_of_a_report_have_a_folder_of_their_own(tmp_path) -> None:
    write_pages(tmp_path, {"report.md": "text"}, {"speedups.svg": "<svg/>"})
    assert (tmp_path / "report.md").read_text() == "text"
    assert (tmp_path / "plots" / "speedups.svg").read_text() == "<svg/>"


def written(folder, count: int = 4) -> list[str]:
    (folder / RUN).write_text("{}")
    with Journal(folder) as journal:
        for number in range(count):
            journal.append(Failure("a", "c", number, "why"))
    return (folder / "journal.jsonl").read_text().splitlines(keepends=True)


def test_nothing_is_broken_in_a_journal_as_it_was_written(tmp_path) -> None:
    written(tmp_path)
    assert broken_link(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda lines: [*lines[:2], lines[2].replace("why", "hwy"), *lines[3:]], "line 3"),
        (lambda lines: lines[:1] + lines[2:], "line 2"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], r"run\.json or the first line"),
        (lambda lines: lines[1:], r"run\.json or the first line"),
        (lambda lines: [*lines, to_line(FAILURE) + "\n"], "line 5: has no link"),
        (lambda lines: [*lines, lines[-1]], "line 5"),
        (lambda lines: [line.replace('"a"', '"b"') for line in lines], r"run\.json or the first line"),
    ],
    ids=["a value", "a line less", "two in another order", "no first line", "a line more", "a line twice", "all"],
)
def test_a_change_of_a_journal_shows(tmp_path, change, where) -> None:
    lines = written(tmp_path)
    (tmp_path / "journal.jsonl").write_text("".join(change(lines)))
    assert (broken := broken_link(tmp_path))
    assert re.search(where, broken)


def test_a_change_of_the_description_shows(tmp_path) -> None:
    written(tmp_path)
    (tmp_path / RUN).write_text('{"seed":1}')
    assert (broken := broken_link(tmp_path))
    assert "run.json or the first line was changed" in broken


def test_a_journal_without_links_can_not_be_checked(tmp_path) -> None:
    (tmp_path / "journal.jsonl").write_text(to_line(FAILURE) + "\n")
    with pytest.raises(UserError, match="has no links"):
        broken_link(tmp_path)


@pytest.mark.parametrize("torn", ["", '{"kind":"fail', '{"kind":"f\u00e4il'])
def test_a_resumed_journal_continues_its_links(tmp_path, torn) -> None:
    written(tmp_path, 2)
    with (tmp_path / "journal.jsonl").open("a", encoding="utf-8") as journal_file:
        journal_file.write(torn)
    with Journal(tmp_path, resumed=True) as journal:
        journal.append(FAILURE)
    assert read_journal(tmp_path)[2:] == [FAILURE]
    assert broken_link(tmp_path) is None
