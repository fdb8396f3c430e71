"""From a journal to ratios."""

import math
from collections import defaultdict
from dataclasses import replace

import pytest

from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.analysis.run import Run, foreign_share, harness_share, idle_share, timed_share
from bench.analysis.speedups import speedups
from bench.records import (
    PRODUCT,
    BlockEnd,
    Choice,
    End,
    Evidence,
    Failure,
    Overhead,
    Proof,
    Reference,
    Roof,
    Slice,
    SplitTrial,
)
from bench.report.text import doubts
from bench.run_info import Protocol
from bench.suite.arms import BEST_THREADS, Case, Pair, Split
from bench.suite.schedule import Block, Round
from models.errors import UserError
from tests.analysis.recorded_run import (
    AA,
    BLOCKS,
    CASE,
    COMPILE,
    EAGER,
    IPEX,
    JIT,
    ROUNDS,
    SLICE,
    TRAINING_CASE,
    inference_run,
    training_run,
    with_two_speeds,
)

PAIR = Pair(JIT, EAGER, CASE)


@pytest.fixture
def builder(tmp_path):
    return inference_run(tmp_path / "run")


def test_a_run_follows_its_own_rule_unless_another_is_named(tmp_path) -> None:
    """In each block all arms but one are at rest in two of three rounds, in which they differ."""
    builder = inference_run(tmp_path / "run", noise=0)
    builder.records = [
        replace(record, samples_ns=(int(record.samples_ns[0] * (1, 1.1, 1.5)[record.round]),))
        if isinstance(record, Slice) and record.arm != JIT.id
        else record
        for record in builder.records
    ]
    old, named = builder.read(), Run(builder.folder, AT_REST)
    recorded = builder.describe(protocol=Protocol(10**6, rule=AT_REST)).read()
    assert (old.rule, named.rule, recorded.rule) == (AS_IT_WAS, AT_REST, AT_REST)
    assert old.rest_share(CASE) == pytest.approx(2 / 3)
    assert set(old.log_ratios(PAIR).values()) == {math.log(2.2)}
    for ratios in (named.log_ratios(PAIR), recorded.log_ratios(PAIR), old.log_ratios(PAIR, AT_REST)):
        assert list(map(math.exp, ratios.values())) == pytest.approx([2 + 0.2 * 2 / 3] * BLOCKS)


@pytest.mark.parametrize(("slow", "rule"), [(BLOCKS // 2, AT_REST), (BLOCKS // 2 + 1, AS_IT_WAS)])
def test_blocks_without_rest_are_left_out_unless_they_are_more_than_half(tmp_path, slow, rule) -> None:
    builder = inference_run(tmp_path / "run", noise=0)
    factors = defaultdict(lambda: 1.5, {EAGER.id: 2})
    builder.records = [
        replace(record, samples_ns=tuple(int(sample * factors[record.arm]) for sample in record.samples_ns))
        if isinstance(record, Slice) and record.block <= slow
        else record
        for record in builder.records
    ]
    run = builder.describe(protocol=Protocol(10**6, rule=AT_REST)).read()
    assert sum(run.blocks_at_rest(CASE).values()) == BLOCKS - slow
    assert run.rule_of(CASE) == rule
    count, warned = (BLOCKS - slow, False) if rule == AT_REST else (BLOCKS, True)
    assert len(run.log_ratios(PAIR)) == len(run.block_latencies_ns(JIT, CASE)) == count
    assert (speedups(run)[0].at_rest is None) == warned
    assert any(". The speedups there are those of the machine as it was" in line for line in doubts(run)) == warned


def test_a_case_whose_intervals_at_rest_are_wider_is_reported_as_the_machine_was(tmp_path) -> None:
    steady, scattered = (
        with_two_speeds(inference_run(tmp_path / f"{spread}", noise=0.004), spread).read() for spread in (0.0, 0.06)
    )
    assert (steady.rule_of(CASE), doubts(steady)) == (AT_REST, [])
    assert (scattered.rule_of(CASE), scattered.too_few_at_rest(CASE)) == (AS_IT_WAS, None)
    wider = [line for line in doubts(scattered) if "as wide as those by the other rule. The speedups there" in line]
    assert len(wider) == 1
    row = speedups(scattered)[0]
    assert row.estimate.log_speedup == row.as_it_was.log_speedup != row.at_rest.log_speedup


@pytest.fixture
def best(builder):
    """Return a run in which each arm has its own number of threads: one 4, the others 1 of at most 16."""
    case = replace(CASE, threads=BEST_THREADS)
    builder.records = [
        replace(record, case=case.id) if hasattr(record, "case") else record for record in builder.records
    ]
    trials = tuple(SplitTrial(1, threads, ((time, time + 2, time + 8),)) for threads, time in ((1, 20), (4, 30)))
    builder.records += [
        Choice(arm.id, case.id, 1, 4 if arm == JIT else 1, trials[::-1] if arm == JIT else trials)
        for arm in (EAGER, COMPILE, JIT)
    ]
    pairs = tuple(replace(pair, case=case.id) for pair in builder.info.pairs)
    lineups = {case.id: builder.info.lineups[CASE.id]}
    return builder.describe(cases=(case,), lineups=lineups, pairs=pairs, threads=16)


def test_each_arm_has_the_split_that_was_chosen_for_it(best) -> None:
    run = best.read()
    (case,) = run.cases
    assert {arm: run.split(arm, case) for arm in run.arms} == {
        EAGER: Split(1, 1), AA: Split(1, 1), COMPILE: Split(1, 1), JIT: Split(1, 4),
    }  # fmt: skip
    assert run.threads(case) == 16


def test_without_choices_all_arms_have_the_threads_of_the_case(builder) -> None:
    run = builder.read()
    assert {run.split(arm, CASE) for arm in run.arms} == {Split(1, run.info.threads)}
    throughput = replace(CASE, scenario="throughput", threads=4)
    assert run.split(EAGER, throughput) == Split(4, 1)


def test_a_round_is_disturbed_by_the_share_of_each_arms_own_cores(best) -> None:
    """A tenth of one core is used by others: much for arms with one thread, less for an arm with four."""
    watched = {"watched_ns": 100, "steal_ns": 0}
    best.change(Slice, lambda _: True, foreign_ns=0, **watched)
    best.change(Slice, lambda turn: (turn.arm, turn.block, turn.round) == (JIT.id, 3, 0), foreign_ns=30)
    best.change(Slice, lambda turn: (turn.arm, turn.block, turn.round) == (EAGER.id, 5, 0), foreign_ns=30)
    run = best.read()
    assert run.disturbed_rounds == {(run.cases[0].id, 5, 0)}
    # 60 ns of the turns of four arms, three of them with one core and one with four.
    turns = 20 * 3
    assert foreign_share(run) == pytest.approx(60 / (100 * turns * (3 + 4)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"arm": "nobody"},
        {"case": "nowhere"},
        {"threads": 3},
        {"streams": 2},
        {"trials": ()},
        {"trials": (SplitTrial(1, 1, ((0,),)),)},
        {"trials": (SplitTrial(1, 1, ((),)),)},
        {"trials": (SplitTrial(1, 1, ((5,),)), SplitTrial(0, 1, ((5,),)))},
    ],
)
def test_a_choice_that_no_run_could_have_made_is_damage(best, wrong) -> None:
    best.change(Choice, lambda choice: choice.arm == EAGER.id, **wrong)
    with pytest.raises(UserError, match="were not chosen from its trials"):
        best.read()


def test_training_has_no_latencies_at_rest(tmp_path) -> None:
    run = Run(training_run(tmp_path / "run").write(), AT_REST)
    assert run.rest_share(TRAINING_CASE) is None
    assert speedups(run)[0].at_rest is None
    assert speedups(run)[0].estimate


def in_one_round(turn) -> bool:
    return (turn.block, turn.round) == (3, 1)


def test_a_ratio_is_taken_within_its_round(tmp_path) -> None:
    """A machine that halves its speed for all arms alike from some round on changes no ratio."""
    builder = inference_run(tmp_path / "run", noise=0)
    builder.records = [
        replace(record, samples_ns=tuple(2 * sample for sample in record.samples_ns))
        if isinstance(record, Slice) and record.block % 2 and record.round
        else record
        for record in builder.records
    ]
    run = builder.read()
    assert set(run.log_ratios(PAIR).values()) == {math.log(2)}
    assert run.band(PAIR) == 0


@pytest.mark.parametrize(("foreign_ns", "disturbed"), [(150_000, {(CASE.id, 3, 1)}), (90_000, set())])
def test_a_round_in_which_others_used_over_5_percent_of_the_cores_is_disturbed(builder, foreign_ns, disturbed) -> None:
    """Turns of a millisecond on two cores each."""
    assert builder.change(Slice, in_one_round, foreign_ns=foreign_ns).read().disturbed_rounds == disturbed


def test_the_cpu_time_of_others_is_compared_with_the_watched_time(builder) -> None:
    builder.change(Slice, in_one_round, foreign_ns=150_000, watched_ns=2_000_000)
    assert builder.read().disturbed_rounds == set()


def test_coarse_ticks_cancel_within_a_round(builder) -> None:
    builder.change(Slice, lambda turn: turn.arm == JIT.id, foreign_ns=300_000)
    builder.change(Slice, lambda turn: turn.arm != JIT.id, foreign_ns=-100_000)
    assert builder.read().disturbed_rounds == set()


def test_coarse_ticks_cancel_within_joint_rounds(builder) -> None:
    """In joint rounds the turns of the cases alternate, so a tick counted too early for one is missing in the other."""
    four = replace(CASE, batch_size=4)
    builder.records += [replace(record, case=four.id) for record in builder.records if isinstance(record, Slice)]
    order = tuple(arm.id for arm in builder.info.arms)
    rounds = [Round(case.id, number, order) for number in range(ROUNDS) for case in (CASE, four)]
    blocks = [Block(number, (CASE.id, four.id), order, tuple(rounds)) for number in range(1, BLOCKS + 1)]
    builder.describe(cases=(CASE, four), lineups={CASE.id: order, four.id: order}, schedule=tuple(blocks))
    builder.change(Slice, lambda turn: turn.case == CASE.id, foreign_ns=200_000)
    builder.change(Slice, lambda turn: turn.case == four.id, foreign_ns=-200_000)
    assert builder.read().disturbed_rounds == set()
    builder.change(Slice, lambda turn: in_one_round(turn) and turn.case == four.id, foreign_ns=100_000)
    assert builder.read().disturbed_rounds == {(CASE.id, 3, 1), (four.id, 3, 1)}
    builder.remove(lambda record: isinstance(record, Slice) and in_one_round(record) and record.case == CASE.id)
    builder.change(Slice, lambda turn: in_one_round(turn) and turn.case == four.id, foreign_ns=150_000)
    assert builder.read().disturbed_rounds == {(four.id, 3, 1)}


def test_shares_are_relative_to_the_watched_time_and_to_the_cores_of_the_arms(builder) -> None:
    conditions = {"idle_cpu_ns": 10_000, "harness_cpu_ns": 20_000, "foreign_ns": 80_000, "watched_ns": 2_000_000}
    run = builder.change(Slice, lambda turn: True, **conditions).read()
    assert (idle_share(run), harness_share(run), foreign_share(run)) == (0.005, 0.01, 0.02)


def test_shares_that_were_not_recorded_are_none(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    assert foreign_share(builder.read()) is None
    run = builder.remove(lambda record: isinstance(record, Evidence)).read()
    assert (idle_share(run), harness_share(run), foreign_share(run)) == (None, None, None)


def test_the_timed_share_is_that_of_the_turns_in_blocks_that_ended(builder) -> None:
    assert timed_share(builder.read()) is None
    builder.records += [BlockEnd(block, (CASE.id,), 1_000_000, 1, 2, 3) for block in (1, 2)]
    run = builder.read()
    walls = [turn.wall_ns for turns in run.turns.values() for turn in turns if turn.block in (1, 2)]
    assert len(walls) < sum(map(len, run.turns.values()))
    assert timed_share(run) == sum(walls) / 2_000_000


def test_a_process_that_did_not_prove_its_work_contributes_no_time(builder) -> None:
    builder.change(Slice, lambda turn: turn.arm == JIT.id and turn.block == 3, samples_ns=(1,))
    builder.remove(lambda record: isinstance(record, Evidence) and record.arm == JIT.id and record.block == 3)
    run = builder.read()
    assert run.log_ratios(PAIR).keys() == set(range(1, BLOCKS + 1)) - {3}


def test_a_replica_has_the_proof_and_the_failure_of_its_original(builder) -> None:
    builder.records.append(Failure(EAGER.id, CASE.id, None, "no room"))
    run = builder.read()
    assert run.proof(AA, CASE) == run.proof(EAGER, CASE)
    assert run.failure(AA, CASE).reason == "no room"


def test_a_slice_of_several_processes_counts_by_their_added_rates(builder) -> None:
    """Two processes, 10 batches in 100 ns and 30 in 150 ns: 0.3 per ns together, whatever the single samples are."""
    several = {"samples_ns": (5,) * 40, "counts": (10, 30), "walls_ns": (100, 150)}
    assert replace(SLICE, **several).batch_interval_ns == pytest.approx(1 / 0.3)
    case = Case("cnn-small", "throughput", 1)
    builder.describe(cases=(case,), lineups={case.id: builder.info.lineups[CASE.id]}, pairs=())
    builder.records = [
        replace(record, case=case.id) if hasattr(record, "case") else record for record in builder.records
    ]
    run = builder.change(Slice, lambda turn: turn.arm == JIT.id, **several).read()
    assert run.typical_latency_ns(JIT, case) == pytest.approx(1 / 0.3)


IMPOSSIBLE = [
    {"samples_ns": ()},
    {"samples_ns": (0,)},
    {"walls_ns": (0,)},
    {"counts": (2,)},
    {"counts": (-1, 2), "walls_ns": (1, 1)},
    {"walls_ns": ()},
    {"watched_ns": -1},
    {"counted_ns": -1},
    {"steal_ns": -1},
    {"idle_cpu_ns": -1},
    {"round": 10**6},
    {"block": 0},
    {"arm": "jax/jit"},
    {"case": "cnn-small/latency/b2"},
    {"round": 1},
]


@pytest.mark.parametrize("change", IMPOSSIBLE, ids=str)
def test_a_slice_that_no_run_writes_is_refused(builder, change) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl: damaged"):
        builder.change(Slice, lambda turn: turn.block == 3 and turn.round == 0, **change).read()


@pytest.mark.parametrize(
    "change",
    [
        {"wall_ns": 0}, {"images": 0}, {"parts_ns": (1, 2)}, {"wall_ns": 3, "parts_ns": (-1, 4)}, {"arm": "jax/jit"},
        {"round": 1},
    ],
    ids=str,
)  # fmt: skip
def test_an_epoch_that_no_run_writes_is_refused(tmp_path, change) -> None:
    builder = training_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"journal\.jsonl: damaged"):
        builder.change(type(builder.records[0]), lambda turn: turn.block == 3 and turn.round == 0, **change).read()


def test_an_arm_can_not_take_a_turn_of_the_other_kind(builder) -> None:
    builder.records.append(training_run(builder.folder).records[0])
    builder.change(type(builder.records[-1]), lambda turn: True, case=CASE.id, arm=JIT.id, block=99)
    with pytest.raises(UserError, match="impossible"):
        builder.read()


@pytest.mark.parametrize(
    ("kind", "change"),
    [(Proof, {"labels": "0"}), (Reference, {"labels": "0"}), (Reference, {"labels": "", "truth": ""})],
    ids=str,
)
def test_labels_that_are_not_one_for_each_image_are_refused(builder, kind, change) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl: damaged: the .*labels of .* are not one for each image"):
        builder.change(kind, lambda record: True, **change).read()


@pytest.mark.parametrize(("counts", "walls_ns"), [((), ()), ((1,), ()), ((1,), (0,)), ((-1, 2), (1, 1))])
def test_a_limit_of_the_machine_that_no_run_writes_is_refused(builder, counts, walls_ns) -> None:
    builder.records.append(Roof(PRODUCT, "pytorch", "fp32", 1, 64, 1, counts, walls_ns))
    with pytest.raises(UserError, match="damaged: the limit 'product' of 64"):
        builder.read()


@pytest.mark.parametrize("samples", [(), (-1,)])
def test_an_overhead_that_no_run_writes_is_refused(builder, samples) -> None:
    builder.records.append(Overhead(samples))
    with pytest.raises(UserError, match="damaged: the overhead"):
        builder.read()


@pytest.mark.parametrize("end", [End("zork", 1), End("complete", -1), End("complete", 1)], ids=str)
def test_an_end_that_no_run_writes_is_refused(builder, end) -> None:
    builder.records += [end, builder.records[0]] if end == End("complete", 1) else [end]
    with pytest.raises(UserError, match="damaged: the end"):
        builder.read()


def test_only_arms_that_train_have_final_accuracies(builder, tmp_path) -> None:
    assert builder.read().final_accuracies(JIT, CASE) == {}
    assert training_run(tmp_path / "training").read().final_accuracies(IPEX, TRAINING_CASE).keys() == {1, 2, 3}
