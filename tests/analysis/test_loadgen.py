"""LoadGen's own verdict decides whether its times may be compared."""

import pytest

from bench.analysis.speedups import speedups
from bench.engine.context import Tally
from bench.engine.resume import restore
from bench.records import BlockEnd, Glue, LoadResult, LoadRun, LoadSearch, Slice
from bench.report.text import doubts
from bench.report.trust import checks
from bench.report.writers import section_to_markdown
from bench.suite.arms import Case
from bench.worker.messages import LoadReply
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, inference_run

SERVER = Case("cnn-small", "server", 1)


def load_run(turn: Slice, *, valid: bool) -> LoadRun:
    reasons = () if valid else ("latency bound",)
    result = LoadResult(valid, reasons, turn.wall_ns, 662, 1000.0, 900.0, {"99.00": 1.0}, {}, 662)
    reply = LoadReply(turn.wall_ns, turn.cpu_ns, 0, 0, 400.0)
    return LoadRun(turn.arm, SERVER.id, turn.block, 0, 0, "logs", result, reply, turn.conditions)


@pytest.fixture
def recorded(tmp_path):
    """Return a function that makes a run of LoadGen, in which some blocks of an arm are not valid."""

    def make(invalid_blocks, *others):
        run = inference_run(tmp_path / "run")
        info = run.info
        run.describe(
            cases=(SERVER,),
            lineups={SERVER.id: info.lineups[CASE.id]},
            pairs=tuple(type(pair)(pair.arm, pair.baseline, SERVER.id, pair.candidate) for pair in info.pairs),
            schedule=(),
        )
        records = list(others)
        for record in run.records:
            if not isinstance(record, Slice):
                if getattr(record, "case", None) == CASE.id:
                    object.__setattr__(record, "case", SERVER.id)
                records.append(record)
            elif record.round == 0:
                valid = record.arm != COMPILE.id or record.block > invalid_blocks
                records.append(load_run(record, valid=valid))
        run.records = records
        return run.read()

    return make


@pytest.mark.parametrize(("invalid", "withheld"), [(0, False), (1, False), (2, True)])
def test_a_comparison_is_withheld_if_over_five_percent_of_the_runs_are_not_valid(recorded, invalid, withheld) -> None:
    rows = speedups(recorded(invalid))
    (row,) = (row for row in rows if (row.pair.arm, row.pair.baseline) == (COMPILE, EAGER))
    assert (row.verdict.word == "WITHHELD") is withheld
    if withheld:
        assert "LoadGen calls 2 of 20 runs INVALID (latency bound)" in row.verdict.reason


def test_a_run_of_loadgen_gives_one_time_and_how_late_its_queries_were(recorded) -> None:
    run = recorded(0)
    runs = run.load_runs(EAGER, SERVER)
    assert run.turn_latencies_ns(EAGER, SERVER) == {(turn.block, 0): turn.result.time_ns for turn in runs}
    assert {turn.issue_delay_ns for turn in runs} == {500.0}


@pytest.mark.parametrize(("interval_ns", "doubted"), [(3000.0, False), (3100.0, True)])
def test_a_cost_of_loadgen_over_the_limit_is_a_doubt(recorded, interval_ns, doubted) -> None:
    run = recorded(0, Glue(100, 1500.0, 2000.0, interval_ns))
    line = "LoadGen itself takes 3.10 µs a query, more than 3 µs: "
    assert any(text.startswith(line) for text in doubts(run)) is doubted
    row = f"| LoadGen's own time per query (null backend) | {interval_ns / 1e3:.2f} µs | at most 3 µs |"
    assert row in section_to_markdown(checks(run))


def test_a_resumed_run_knows_the_rates_that_were_found() -> None:
    search, end = LoadSearch(EAGER.id, SERVER.id, 1, 200.0, ()), BlockEnd(1, (SERVER.id,), 1, 1, 1, 1)
    tally = Tally(None)
    restore(tally, [search, end])
    assert tally.rates == {(EAGER.id, SERVER.id): 200.0}
