from collections import Counter
from dataclasses import replace
from itertools import groupby, product

import pytest

from bench.engine import run as module
from bench.engine.block import InferenceBlock
from bench.engine.describe import Origin
from bench.engine.run import is_settled, measure_run, total_weights
from bench.journal import read_journal
from bench.records import (
    BlockEnd,
    Check,
    End,
    Evidence,
    Failure,
    Overhead,
    Parity,
    Prepared,
    Proof,
    Reference,
    Roof,
    Slice,
    Start,
    in_force,
)
from bench.run_info import read_run
from bench.suite.arms import Arm
from bench.suite.plan import make_plan
from models.errors import UserError
from tests.analysis.recorded_run import COMPILE, EAGER, JIT, inference_run
from tests.engine.conftest import FOUR, ONE, ORACLE, PRESET, REPLICA, SUITE
from tests.shortened import IMAGES, shorten_preparations

ORIGIN = Origin(("bench", "run"), "2026-01-01T00:00:00+00:00", None)


@pytest.mark.parametrize(
    ("jit", "noise", "settled"),
    [(100_000, 0.005, True), (134_000, 0.005, True), (134_000, 0.1, False)],
    ids=["a clear difference", "known to within 1 %", "still open"],
)
def test_a_look_stops_when_the_primary_comparison_is_known(tmp_path, jit, noise, settled) -> None:
    inference_run(tmp_path / "run", preset="publish", noise=noise, jit=jit).write()
    assert is_settled(tmp_path / "run") is settled


@pytest.mark.parametrize(("delay", "noise", "settled"), [(0.2, 0.01, True), (0.05, 0.5, False)])
def test_a_look_stops_when_slowdowns_that_must_be_detected_are(tmp_path, delay, noise, settled) -> None:
    builder = inference_run(tmp_path / "run", preset="selftest", noise=noise, compiled=200_000 * (1 + delay))
    builder.replace_arm(COMPILE, replace(EAGER, delay=delay)).write()
    assert is_settled(tmp_path / "run") is settled


def test_a_look_does_not_stop_on_a_withheld_verdict(tmp_path) -> None:
    run = inference_run(tmp_path / "run", preset="publish")
    run.change(Proof, lambda proof: proof.arm == JIT.id, agreement=0.5).write()
    assert not is_settled(tmp_path / "run")


class CountedSteps:
    def __init__(self, interrupt_at: str | None = None) -> None:
        self.weights, self.interrupt_at = Counter[str](), interrupt_at

    def step(self, weight: float, what: str, kind: str) -> None:
        self.weights[kind] += weight
        if self.interrupt_at and what.startswith(self.interrupt_at):
            raise KeyboardInterrupt


@pytest.fixture
def measure(tmp_path, few_images, monkeypatch):
    """Return a function that measures the oracle against itself, briefly; it returns the status and the records."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shorten_preparations(IMAGES, monkeypatch.setattr)
    folder = tmp_path / "run"
    folder.mkdir()

    def measure(steps: CountedSteps, earlier=None, preset=PRESET):
        plan = make_plan(SUITE, preset, seed=1, threads=1)
        status = measure_run(plan, few_images, folder, steps, ORIGIN, earlier)
        return status, plan, read_journal(folder)

    return measure


@pytest.mark.parametrize("starts", [[Start], []], ids=["cold starts", "none"])
def test_a_run_measures_all_that_is_planned_in_order(measure, tmp_path, starts) -> None:
    steps = CountedSteps()
    status, plan, records = measure(steps, preset=replace(PRESET, cold_starts=bool(starts)))
    assert status == "complete"
    assert not [record for record in records if isinstance(record, Failure)]
    kinds = list(dict.fromkeys(type(record) for record in records))
    preparations = [Overhead, Reference, *starts, Proof, Parity, Roof, Prepared]
    assert kinds == [*preparations, Check, Slice, Evidence, BlockEnd, End]
    turns = [(turn.block, turn.case, turn.arm) for turn in records if isinstance(turn, Slice)]
    assert turns == [
        (block.number, turn.case, arm)
        for block in plan.schedule
        for (_, order), joint in groupby(block.rounds, lambda turn: (turn.number, turn.order))
        for arm, turn in product(order, list(joint))
    ]
    assert {(case, arm) for _, case, arm in turns} == {
        (case.id, arm.id) for case in (ONE, FOUR) for arm in (ORACLE, REPLICA)
    }
    assert records[-1].status == "complete"
    assert steps.weights == pytest.approx({kind: weight for kind, weight in total_weights(plan).items() if weight})
    assert read_run(tmp_path / "run").schedule == plan.schedule
    assert (tmp_path / "run" / "logs" / "oracle-numpy.log").exists()


def test_an_interrupted_run_keeps_its_records_and_says_so(measure) -> None:
    status, _, records = measure(CountedSteps(interrupt_at="block 1"))
    assert status == records[-1].status == "interrupted"
    assert {turn.block for turn in records if isinstance(turn, Slice)} == {1}


def test_a_run_that_was_interrupted_in_its_first_block_repeats_no_proof(measure, monkeypatch) -> None:
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(InferenceBlock, "take_turn", interrupt)
        status, plan, records = measure(CountedSteps())
    assert status == "interrupted"
    assert not [record for record in records if isinstance(record, Slice | BlockEnd)]
    proofs = [record for record in records if isinstance(record, Proof | Start | Parity | Roof | Overhead)]
    earlier, steps = in_force(records), CountedSteps()
    status, plan, records = measure(steps, earlier)
    assert status == "complete"
    repeated = [record for record in records if isinstance(record, Proof | Start | Parity | Roof | Overhead)]
    assert repeated == proofs
    assert steps.weights == pytest.approx(total_weights(plan, earlier))
    assert steps.weights.keys() == {"block"}


def test_a_run_that_was_interrupted_before_its_blocks_repeats_all_that_comes_before_them(measure) -> None:
    _, _, records = measure(CountedSteps(interrupt_at="limits"))
    assert not [record for record in records if isinstance(record, Prepared)]
    earlier = in_force(records)
    status, plan, records = measure(CountedSteps(), earlier)
    assert status == "complete"
    counted = in_force(records)
    assert len([record for record in counted if isinstance(record, Proof)]) == len(plan.suite.cases)
    assert len([record for record in records if isinstance(record, Proof)]) == 2 * len(plan.suite.cases)


def test_arms_that_can_not_be_measured_are_stored_as_skipped(tmp_path, few_images, monkeypatch) -> None:
    monkeypatch.setattr(module, "measure_blocks", lambda *_: "complete")
    for step in ("measure_overhead", "compute_references", "prove_arms", "measure_limits"):
        monkeypatch.setattr(module, step, lambda *_: None)
    plan = make_plan(SUITE, PRESET, seed=1, threads=1)
    monkeypatch.setitem(plan.obstacles, REPLICA, "no reason")
    monkeypatch.setitem(plan.obstacles, Arm("oracle", "other"), "not in the suite")
    measure_run(plan, few_images, tmp_path, CountedSteps(), ORIGIN)
    *skipped, prepared, _ = read_journal(tmp_path)
    assert skipped == [Failure(REPLICA.id, case.id, None, "no reason", skipped=True) for case in (ONE, FOUR)]
    assert prepared == Prepared()


def test_a_full_disk_is_an_error_for_the_user_with_a_remedy(tmp_path, few_images, monkeypatch) -> None:
    def refuse(*_):
        raise OSError(28, "No space left on device", "cache/file")

    monkeypatch.setattr(module, "measure_overhead", refuse)
    with pytest.raises(
        UserError, match=r"cache/file: No space left on device; free space there, or set XDG_CACHE_HOME or TMPDIR to an"
    ):
        measure_run(make_plan(SUITE, PRESET, seed=1, threads=1), few_images, tmp_path, CountedSteps(), ORIGIN)
