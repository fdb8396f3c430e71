import re
from dataclasses import replace

import pytest

from bench.analysis.run import Run
from bench.engine.context import Tally
from bench.engine.resume import difference, finished_blocks, is_finished, restore, spent_ns
from bench.journal import read_journal
from bench.records import BlockEnd, End, Failure, Prepared, Resume, Slice, in_force, to_line
from bench.run_info import as_read, read_run, write_run
from bench.suite.schedule import Block
from bench.suite.user_variables import UserVariables
from tests.analysis.recorded_run import JIT, inference_run

BLOCK = Block(1, ("c", "d"), (), ())


def resumed_at(records: list, cut: int) -> list:
    """Return the records of a run that was killed after `cut` of them and that then went on."""
    ends = [index + 1 for index, record in enumerate(records[:cut]) if isinstance(record, BlockEnd | Prepared)]
    done = max(ends, default=0)
    return [*records[:cut], Resume("2026-01-01", 1), *records[done:]]


@pytest.fixture
def records(tmp_path) -> list:
    """Return the records of a run whose blocks are closed by their ends."""
    run = inference_run(tmp_path / "run", preset="smoke")
    run.write()
    plain = [record for record in read_journal(tmp_path / "run") if not isinstance(record, BlockEnd | End)]
    closed = []
    for number, record in enumerate(plain):
        closed.append(record)
        following = plain[number + 1] if number + 1 < len(plain) else None
        block = getattr(record, "block", None)
        if not block and getattr(following, "block", None):
            closed.append(Prepared())
        if block and getattr(following, "block", None) != block:
            closed.append(BlockEnd(block, ("all",), 4, 1, 1, 2))
    return [*closed, End("complete", 9)]


def test_a_resumed_run_counts_each_record_once_wherever_it_was_killed(records) -> None:
    for cut in range(len(records)):
        kept = in_force(resumed_at(records, cut))
        assert [record for record in kept if not isinstance(record, Resume)] == records
        assert sum(isinstance(record, Resume) for record in kept) == 1


def test_every_resumption_is_kept(records) -> None:
    begun = [*records[:3], Resume("1", 1), *records[:2], Resume("2", 1), *records]
    assert [record for record in in_force(begun) if isinstance(record, Resume)] == [Resume("1", 1), Resume("2", 1)]


def test_time_is_spent_once() -> None:
    block = BlockEnd(1, ("c",), 4, 1, 1, 2)
    assert spent_ns([]) == 0
    assert spent_ns([block, block]) == 8
    assert spent_ns([block, End("interrupted", 20)]) == 20
    assert spent_ns([block, Resume("", 6)]) == 6
    assert spent_ns([block, Resume("", 6), block]) == 10


def test_a_finished_block_is_known_by_number_and_cases() -> None:
    finished = finished_blocks([BlockEnd(1, ("c", "d"), 4, 1, 1, 2)])
    assert is_finished(BLOCK, finished)
    assert not is_finished(replace(BLOCK, number=2), finished)
    assert not is_finished(replace(BLOCK, cases=("c",)), finished)


def test_a_tally_knows_what_the_records_say(records) -> None:
    tally, case = Tally(journal=None), next(record.case for record in records if isinstance(record, Slice))  # type: ignore[arg-type]
    failures = [
        Failure(JIT.id, case, 2, "died"),
        Failure("a/b", case, None, "no"),
        Failure("c/d", case, None, "", True),
    ]
    end = BlockEnd(9, ("c",), 4, 1, 1, 2)
    restore(tally, [*records, *failures, end, Failure(JIT.id, case, 10, "in a block that did not end")])
    assert tally.labels[JIT.id, case].dtype == "int64"
    assert tally.memory_bytes[JIT.id, 0] > 0
    assert tally.failed_blocks[JIT.id, case] == 1
    assert tally.unsupported == {("c/d", case)}
    restore(tally, [Failure(JIT.id, case, None, "proof failed"), end])
    assert (JIT.id, case) not in tally.labels


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"seed": 4}, "seed"),
        ({"threads": 9}, "threads"),
        ({"git_commit": "other"}, "git_commit"),
        ({"schedule": (BLOCK,)}, "schedule"),
        ({"command": ("x",), "started": "later", "advice": ("new",)}, None),
    ],
)
def test_a_run_goes_on_only_as_it_began(tmp_path, change, name) -> None:
    info = inference_run(tmp_path / "run").info
    assert difference(info, replace(info, **change)) == name


def test_a_run_goes_on_only_on_the_same_machine(tmp_path) -> None:
    info = inference_run(tmp_path / "run").info
    assert difference(info, replace(info, machine=replace(info.machine, load=7.0))) is None
    assert difference(info, replace(info, machine=replace(info.machine, cpu="another"))) == "machine"


def test_the_report_says_how_long_the_machine_was_suspended(tmp_path) -> None:
    from bench.report.text import doubts

    run = inference_run(tmp_path / "run").write()
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    ends = [BlockEnd(block, ("c",), 4, 1, 1, 2, suspended_ns=gap) for block, gap in enumerate((None, 7, 3 * 10**12))]
    (run / "journal.jsonl").write_text("".join([*lines[:-1], *(to_line(end) + "\n" for end in ends), lines[-1]]))
    assert "the machine was suspended for 50 min, in 1 block; no time includes that" in doubts(Run(run))


def test_the_report_says_that_there_were_uncommitted_changes(tmp_path) -> None:
    from bench.report.text import warnings

    run = inference_run(tmp_path / "run").describe(git_commit="abc-dirty")
    run.write()
    assert warnings(Run(tmp_path / "run"))[0].startswith("the harness had uncommitted changes (commit abc-dirty)")


def test_the_report_says_how_to_go_on(tmp_path) -> None:
    from bench.report.text import problems

    run = inference_run(tmp_path / "run")
    run.write()
    journal = tmp_path / "run" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    assert re.search("--resume run goes on", problems(Run(tmp_path / "run"))[-1])


def test_a_long_variable_is_the_same_when_its_run_goes_on(tmp_path) -> None:
    """What is read back is cut; a difference after the cut is still one."""
    long = "/lib" * 600
    info = inference_run(tmp_path / "run").describe(variables=UserVariables(given={"LD_LIBRARY_PATH": long})).info
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", info)
    before = read_run(tmp_path / "run")
    assert before.variables.given != info.variables.given
    assert difference(before, as_read(info)) is None
    other = replace(info, variables=UserVariables(given={"LD_LIBRARY_PATH": f"{long[:-1]}c"}))
    assert difference(before, as_read(other)) == "variables"
