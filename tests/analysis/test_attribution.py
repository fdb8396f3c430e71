"""Ladders: how a gain is divided among its steps."""

import math
from dataclasses import replace

import pytest

from bench.analysis.attribution import attributions
from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.records import Proof, Slice
from bench.run_info import Protocol
from bench.suite.arms import Arm, Pair
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run, ladder_info

LADDER = [
    ("as it is", EAGER),
    ("not there", Arm("ipex", "eager")),
    ("compile", COMPILE),
    ("extension", JIT),
    ("nowhere", Arm("ipex", "eager")),
]


@pytest.fixture
def builder(tmp_path):
    """Return a run in which eager takes 200 us, compiled 134 us and IPEX 100 us."""
    return inference_run(tmp_path / "run")


def test_a_ladder_divides_the_gain(builder) -> None:
    """2x in total, of which the extension has 1.34x over the fastest vanilla arm: log 1.34 / log 2 = 42 %."""
    (ladder,) = attributions(builder.describe(ladders=(ladder_info("ladder", LADDER),)).read())
    assert [rung.name for rung in ladder.rungs] == ["as it is", "not there + compile", "extension"]
    assert [round(rung.step.speedup, 2) for rung in ladder.rungs[1:]] == [1.49, 1.34]
    assert [round(rung.total.speedup, 2) for rung in ladder.rungs[1:]] == [1.49, 2.0]
    assert ladder.missing == ("not there", "nowhere")
    assert ladder.extension.pair.baseline == COMPILE
    assert ladder.share == pytest.approx(math.log(1.34) / math.log(2), abs=0.01)


def test_a_ladder_with_arms_of_one_stack_only_has_it_in_its_name(builder) -> None:
    (ladder,) = attributions(builder.describe(ladders=(ladder_info("extension", LADDER[:3]),)).read())
    assert ladder.name == "extension, pytorch only"
    assert ladder.arms == [EAGER, COMPILE]


def test_a_prefix_of_another_ladder_is_left_out_on_each_case(builder) -> None:
    larger = replace(CASE, batch_size=64)
    builder.records += [replace(record, case=larger.id) for record in builder.records if hasattr(record, "case")]
    builder.describe(cases=(CASE, larger), lineups=dict.fromkeys((CASE.id, larger.id), builder.info.lineups[CASE.id]))
    prefix, full = ladder_info("prefix", LADDER[:3]), ladder_info("full", LADDER)
    for ladders in ((prefix, full), (full, prefix), (full, full)):
        run = builder.describe(ladders=ladders).read()
        assert [(ladder.name, ladder.case) for ladder in attributions(run)] == [("full", CASE), ("full", larger)]


def test_a_prefix_with_an_extension_speedup_of_its_own_is_kept(builder) -> None:
    """Only the shorter ladder ends with an arm that is compared with vanilla ones."""
    plain = replace(JIT, settings="plain")
    ladders = ladder_info("own", LADDER), ladder_info("settings", [*LADDER, ("plain", plain)])
    own, settings = attributions(builder.add_arm(plain, like=JIT).describe(ladders=ladders).read())
    assert (own.share is None, settings.share is None) == (False, True)


def test_without_a_gain_there_is_no_share(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", eager=1e5, aa=1e5, compiled=1e5, jit=1e5)
    (ladder,) = attributions(builder.describe(ladders=(ladder_info("flat", LADDER),)).read())
    assert ladder.share is None


def test_a_step_to_a_lower_precision_names_the_instructions(builder) -> None:
    bf16 = replace(JIT, precision="bf16")
    builder.add_arm(bf16, like=JIT)
    builder.records = [
        replace(record, kernels=("inner_product brgemm:avx10_1_512_amx bf16",)) if isinstance(record, Proof) else record
        for record in builder.records
    ]
    run = builder.describe(ladders=(ladder_info("ladder", [("extension", JIT), ("bf16", bf16)]),)).read()
    (ladder,) = attributions(run)
    assert [rung.name for rung in ladder.rungs] == ["extension", "bf16 (AMX)"]


def test_a_ladder_of_which_nothing_was_measured_is_left_out(builder) -> None:
    absent = ladder_info("absent", [("not there", Arm("itex", "graph")), ("nor there", Arm("itex", "frozen"))])
    (ladder,) = attributions(builder.describe(ladders=(absent, ladder_info("ladder", LADDER))).read())
    assert ladder.name == "ladder"


def test_the_figures_of_a_ladder_follow_one_rule(tmp_path) -> None:
    """The compiled arm takes part in eight blocks. The machine rests in four of them: too few for an interval."""
    builder = inference_run(tmp_path / "run", noise=0)
    builder.remove(lambda record: getattr(record, "arm", None) == COMPILE.id and getattr(record, "block", 1) > 8)
    builder.records = [
        replace(record, samples_ns=tuple(sample * (2 if record.arm == JIT.id else 3) for sample in record.samples_ns))
        if isinstance(record, Slice) and record.block <= 4
        else record
        for record in builder.records
    ]
    ladders = (ladder_info("ladder", LADDER),)
    run = builder.describe(ladders=ladders, protocol=Protocol(10**6, rule=AT_REST)).read()
    (ladder,) = attributions(run)
    assert (run.rule_of(CASE), ladder.rule) == (AT_REST, AS_IT_WAS)
    assert run.rule_of_pair(Pair(JIT, EAGER, CASE)) == AT_REST
    pairs = Pair(COMPILE, EAGER, CASE), Pair(JIT, COMPILE, CASE)
    assert [rung.step for rung in ladder.rungs[1:]] == [run.estimate(pair, AS_IT_WAS) for pair in pairs]
    assert ladder.rungs[-1].total == run.estimate(Pair(JIT, EAGER, CASE), AS_IT_WAS)
    assert ladder.own == ladder.extension.as_it_was
