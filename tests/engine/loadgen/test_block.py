"""How long a LoadGen run may take; no process is started."""

from dataclasses import replace

from bench.engine.loadgen import block as module
from bench.engine.loadgen.block import LoadGenBlock
from bench.engine.workers import WorkerError
from bench.records import Check, Failure
from bench.suite.arms import MULTI_STREAM
from bench.suite.schedule import Block, Round
from tests.engine.conftest import ORACLE, SUITE, FakeGroup


def test_a_slow_arm_has_ten_times_as_long_as_its_fewest_queries_need(context, tally, monkeypatch) -> None:
    """The 662 queries take 0.5 s each in the warm-up: 331 s, in a run of 2 s."""
    suite = replace(SUITE, scenarios=(MULTI_STREAM,))
    (case,) = suite.cases
    plan = replace(context.plan, suite=suite, preset=replace(context.plan.preset, load_ms=2000))
    block = Block(1, (case.id,), (ORACLE.id,), (Round(case.id, 0, (ORACLE.id,)),))
    runner = LoadGenBlock(replace(context, plan=plan), tally, block)
    runner.groups, runner.cores = {ORACLE.id: FakeGroup({})}, {ORACLE.id: [0]}
    runner.checks[ORACLE.id, case.id] = Check(ORACLE.id, case.id, 1, 12, "", 0.0, (500_000_000,), steady=True)
    limits = []

    def run_load_in(_group, _request, timeout_s):
        limits.append(timeout_s)
        raise WorkerError("exited")

    monkeypatch.setattr(module, "run_load_in", run_load_in)
    runner._ready.add((ORACLE.id, case.id))
    runner._attempt(ORACLE.id, case.id, lambda arm, case: runner.take_turn(0, 0, arm, case))
    assert limits == [module.LOAD_TIMEOUT_S + 3310]
    assert tally.journal.of(Failure) == [Failure(ORACLE.id, case.id, 1, "exited")]
