from collections import Counter
from pathlib import Path

from bench.suite.arms import ANY_PRECISION, Arm, Case
from bench.suite.environments import Environment
from bench.suite.plan import Plan, planned_pairs
from bench.suite.schedule import PRESETS, Group, draw_schedule
from bench.suite.suite import Suite

CASES = tuple(Case("cnn-small", "latency", size) for size in (1, 64))
ARMS = (Arm("oracle", "numpy"), Arm("oracle", "numpy", replica=True), Arm("toy", "good"))
OTHER = Group((Case("cnn-small", "throughput", 1),), ARMS[:2])
GROUPS = [Group(CASES, ARMS), OTHER]


def test_every_arm_has_one_slice_in_every_round() -> None:
    for block in draw_schedule(GROUPS[:1], PRESETS["quick"], seed=1):
        assert all(sorted(each.order) == sorted(arm.id for arm in ARMS) for each in block.rounds)
        assert sorted(block.start) == sorted(arm.id for arm in ARMS)
        assert Counter(each.case for each in block.rounds) == dict.fromkeys((case.id for case in CASES), 3)


def test_each_case_is_measured_once_per_block_number() -> None:
    schedule = draw_schedule(GROUPS, PRESETS["quick"], seed=1)
    assert Counter((block.number, case) for block in schedule for case in block.cases) == {
        (number, case.id): 1 for number in range(1, 9) for case in (*CASES, *OTHER.cases)
    }


def test_what_does_not_take_part_in_a_scenario_is_in_none_of_its_blocks() -> None:
    blocks = [block for block in draw_schedule(GROUPS, PRESETS["quick"], seed=1) if block.cases == (OTHER.cases[0].id,)]
    assert {arm for block in blocks for arm in block.start} == {arm.id for arm in OTHER.arms}


def test_the_seed_decides_the_schedule() -> None:
    draw = [draw_schedule(GROUPS, PRESETS["quick"], seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_in_two_rounds_every_arm_precedes_every_other_once() -> None:
    schedule = draw_schedule([OTHER], PRESETS["standard"], seed=3)
    orders = [each.order for block in schedule for each in block.rounds]
    for one, two in zip(orders[::2], orders[1::2], strict=True):
        assert two == one[::-1]


def test_every_arm_comes_first_about_equally_often() -> None:
    blocks = [block for seed in range(50) for block in draw_schedule(GROUPS[:1], PRESETS["quick"], seed)]
    first = Counter(each.order[0] for block in blocks for each in block.rounds)
    total = sum(first.values())
    assert all(0.30 < first[arm.id] / total < 0.37 for arm in ARMS)


def test_presets_are_those_of_the_protocol() -> None:
    found = {preset.name: (preset.blocks, preset.confidence, preset.looks) for preset in PRESETS.values()}
    assert found == {
        "smoke": (2, None, ()),
        "quick": (8, 0.95, ()),
        "selftest": (16, 0.9995, ()),
        "standard": (20, 0.95, ()),
        "publish": (64, 0.9833, (16, 32)),
    }


SUITE = Suite(
    name="s", summary="s", scenarios=("latency", "throughput"), models=("cnn-small",), batch_sizes=(1,),
    precisions=("fp32", "bf16", "int8"),
    arm_patterns=(
        Arm("pytorch", "eager", "fp32", "plain"), Arm("pytorch", "eager", ANY_PRECISION), Arm("pytorch", "compile", ANY_PRECISION),
        Arm("tensorflow", "graph", ANY_PRECISION), Arm("openvino", "latency", ANY_PRECISION), Arm("openvino", "throughput", "fp32"),
    ),
    baselines=(Arm("pytorch", "eager", ANY_PRECISION), Arm("pytorch", "compile", ANY_PRECISION), Arm("tensorflow", "graph", ANY_PRECISION)),
    primary=(Arm("openvino", "latency", ANY_PRECISION),),
)  # fmt: skip


def plan(*instruction_sets: str) -> Plan:
    """Return a plan on a machine with these instruction sets, with every environment there."""
    environment = Environment("e", Path("bin/python"), "3.11", {})
    names = dict.fromkeys(("pytorch", "tensorflow", "openvino"), environment)
    return Plan(SUITE, PRESETS["smoke"], 1, 2, names, {}, instruction_sets)


def test_a_precision_that_a_stack_lacks_is_one_arm_with_its_reason() -> None:
    arm = Arm("tensorflow", "graph", "int8")
    assert arm in SUITE.measured
    assert plan("avx2", "avx512_vnni").obstacle(arm) == "tensorflow has no int8"
    assert Arm("pytorch", "eager", "int8") not in SUITE.measured  # as another variant of the stack has it


def test_an_instruction_set_that_the_cpu_lacks_is_a_reason() -> None:
    assert plan("avx2").obstacle(Arm("pytorch", "compile", "bf16")) == "this CPU has none of avx512_bf16, amx_bf16"
    assert plan("avx512_vnni").obstacle(Arm("openvino", "latency")) == "this CPU has none of avx2"
    assert plan("avx2", "amx_bf16").obstacle(Arm("openvino", "latency", "bf16")) is None


def test_asynchronous_variants_and_odd_settings_take_part_in_one_scenario_each() -> None:
    latency, throughput = plan("avx2").groups
    assert Arm("openvino", "throughput") in throughput.arms
    assert Arm("openvino", "throughput") not in latency.arms
    assert Arm("pytorch", "eager", "fp32", "plain") in latency.arms
    assert Arm("pytorch", "eager", "fp32", "plain") not in throughput.arms


def test_pairs_are_of_equal_precision_and_settings_and_the_primary_one_is_in_fp32() -> None:
    pairs = planned_pairs(SUITE)
    assert all((each.arm.precision, each.arm.settings) == (each.baseline.precision, each.baseline.settings)
               for each in pairs)  # fmt: skip
    assert {each.arm.id for each in pairs if each.candidate} == {"openvino/latency"}
    against = {each.baseline.id for each in pairs if each.arm == Arm("openvino", "latency", "int8")}
    assert against == {"pytorch/compile/int8"}
    against = {each.baseline.id for each in pairs if each.arm == Arm("openvino", "throughput")}
    assert against == {"pytorch/eager", "pytorch/compile", "tensorflow/graph"}
