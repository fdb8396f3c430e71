from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from bench.suite import plan as plan_module
from bench.suite.arms import ANY_PRECISION, Arm, Case
from bench.suite.environments import HARNESS, Environment, MissingEnvironmentError
from bench.suite.parse import load_suite
from bench.suite.plan import compared_arms, group_cases, loadgen_obstacle, make_plan, obstacle, planned_pairs
from bench.suite.schedule import PRESETS, Block, Group, Round, draw_schedule, slice_ns_of
from bench.suite.suite import Suite
from bench.suite.user_variables import UserVariables
from models.errors import UserError

CASES = tuple(Case("cnn-small", "latency", size) for size in (1, 64))
ARMS = (Arm("oracle", "numpy"), Arm("oracle", "numpy", replica=True), Arm("toy", "good"))
OTHER = Group((Case("cnn-small", "throughput", 1),), ARMS[:2])
GROUPS = [Group(CASES, ARMS), OTHER]


def test_every_arm_has_one_turn_in_every_round() -> None:
    for block in draw_schedule(GROUPS[:1], PRESETS["quick"], seed=1):
        assert all(sorted(turn.order) == sorted(arm.id for arm in ARMS) for turn in block.rounds)
        assert sorted(block.start) == sorted(arm.id for arm in ARMS)
        assert Counter(turn.case for turn in block.rounds) == dict.fromkeys((case.id for case in CASES), 12 + 12)


@pytest.mark.parametrize(("name", "rounds", "throughput_rounds"), [("standard", 24 + 24, 8), ("smoke", 4, 2)])
def test_throughput_has_longer_slices_in_fewer_rounds(name, rounds, throughput_rounds) -> None:
    preset, (throughput,) = PRESETS[name], OTHER.cases
    (block, *_) = draw_schedule([Group((CASES[0], throughput), ARMS)], preset, seed=1)
    assert Counter(turn.case for turn in block.rounds) == {CASES[0].id: rounds, throughput.id: throughput_rounds}
    assert [slice_ns_of(case, preset) for case in (CASES[0], throughput)] == [10_000_000, 50_000_000]


def test_each_case_is_measured_once_per_block_number() -> None:
    schedule = draw_schedule(GROUPS, PRESETS["quick"], seed=1)
    assert Counter((block.number, case) for block in schedule for case in block.cases) == {
        (number, case.id): 1 for number in range(1, 13) for case in (*CASES, *OTHER.cases)
    }


def test_blocks_of_a_scenario_have_only_the_arms_that_take_part_in_it() -> None:
    blocks = [block for block in draw_schedule(GROUPS, PRESETS["quick"], seed=1) if block.cases == (OTHER.cases[0].id,)]
    assert {arm for block in blocks for arm in block.start} == {arm.id for arm in OTHER.arms}


def test_equal_seeds_give_equal_schedules() -> None:
    first, again, other = (draw_schedule(GROUPS, PRESETS["quick"], seed) for seed in (1, 1, 2))
    assert first == again != other


def test_in_two_rounds_every_arm_precedes_every_other_once() -> None:
    schedule = draw_schedule([OTHER], PRESETS["standard"], seed=3)
    orders = [turn.order for block in schedule for turn in block.rounds]
    for order, reverse in zip(orders[::2], orders[1::2], strict=True):
        assert reverse == order[::-1]


@pytest.mark.parametrize(("scenario", "joint"), [("latency", True), ("throughput", False)])
def test_only_cases_of_latency_have_joint_rounds(scenario, joint) -> None:
    cases = tuple(replace(case, scenario=scenario) for case in CASES)
    rounds = [turn for block in draw_schedule([Group(cases, ARMS)], PRESETS["quick"], seed=2) for turn in block.rounds]
    pairs = list(zip(rounds[::2], rounds[1::2], strict=True))
    assert all(first.number == second.number and first.case != second.case for first, second in pairs)
    assert all(first.order == second.order for first, second in pairs) == joint


def test_every_arm_is_first_about_equally_often() -> None:
    blocks = [block for seed in range(50) for block in draw_schedule(GROUPS[:1], PRESETS["quick"], seed)]
    first = Counter(turn.order[0] for block in blocks for turn in block.rounds)
    total = sum(first.values())
    assert all(0.30 < first[arm.id] / total < 0.37 for arm in ARMS)


def test_presets_are_those_of_the_protocol() -> None:
    presets = {
        preset.name: (preset.blocks, preset.training_blocks, preset.confidence, preset.looks)
        for preset in PRESETS.values()
    }
    assert presets == {
        "smoke": (2, 2, None, ()),
        "quick": (12, 8, 0.95, ()),
        "selftest": (36, 0, 0.9999, (16, 24)),
        "standard": (16, 20, 0.95, ()),
        "publish": (64, 64, 0.9833, (16, 32)),
    }


def test_arms_that_only_ladders_need_take_part_in_fewer_blocks_evenly_spaced() -> None:
    group = Group(CASES, ARMS, ladder_only=frozenset(ARMS[2:]))
    blocks = draw_schedule([group], PRESETS["standard"], seed=1)
    assert [block.number for block in blocks if ARMS[2].id in block.start] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert all({ARMS[0].id, ARMS[1].id} <= set(block.start) for block in blocks)
    assert all(sorted(turn.order) == sorted(block.start) for block in blocks for turn in block.rounds)


def test_what_is_compared_takes_part_in_every_block() -> None:
    suite = load_suite("inference")
    compared = compared_arms(suite)
    for pair in planned_pairs(suite):
        if pair.candidate or pair.arm.replica:
            assert {pair.arm, pair.baseline} <= compared
    (group,) = group_cases(suite, suite.measured)
    assert group.ladder_only == frozenset(suite.measured) - compared
    assert Arm("pytorch", "eager", settings="plain") in group.ladder_only


def test_training_has_its_own_number_of_blocks() -> None:
    training = Group((Case("cnn-small", "training", 64),), ARMS[:2], epochs=5)
    counts = Counter(block.cases for block in draw_schedule([*GROUPS, training], PRESETS["standard"], seed=1))
    assert counts[(training.cases[0].id,)] == 20
    assert counts[(OTHER.cases[0].id,)] == 16


def test_arms_that_compile_start_first() -> None:
    suite = load_suite("inference")
    (group,) = group_cases(suite, suite.measured)
    compiling = {Arm("pytorch", "compile"), Arm("pytorch", "aot"), Arm("pytorch-latest", "compile")}
    assert group.slow_to_start == compiling
    blocks = draw_schedule([group], PRESETS["standard"], seed=1)
    assert {block.start[0] for block in blocks} == {arm.id for arm in compiling}
    assert len({block.start[1] for block in blocks}) > 1


def test_the_first_training_blocks_train_all_epochs_and_the_others_two() -> None:
    group = Group((Case("cnn-small", "training", 64),), ARMS[:2], epochs=5)
    schedule = draw_schedule([group], PRESETS["quick"], seed=1)
    assert [len(block.rounds) for block in schedule] == [5, 5, 5, 2, 2, 2, 2, 2]


def test_a_schedule_does_not_change_between_versions() -> None:
    """A run of the same seed measures in the same order, so that published runs can be repeated."""
    one, sixty_four = (case.id for case in CASES)
    oracle, replica, toy = (arm.id for arm in ARMS)
    block = draw_schedule(GROUPS, replace(PRESETS["smoke"], rounds=1), seed=1)[2]
    assert block == Block(
        number=2,
        cases=(one, sixty_four),
        start=(replica, oracle, toy),
        rounds=(Round(one, 0, (oracle, toy, replica)), Round(sixty_four, 0, (oracle, toy, replica))),
    )


SUITE = Suite(
    name="s", summary="s", scenarios=("latency", "throughput"), models=("cnn-small",), batch_sizes=(1,),
    precisions=("fp32", "bf16", "int8"),
    arm_patterns=(
        Arm("pytorch", "eager", "fp32", "plain"), Arm("pytorch", "eager", ANY_PRECISION),
        Arm("pytorch", "compile", ANY_PRECISION), Arm("tensorflow", "graph", ANY_PRECISION),
        Arm("openvino", "latency", ANY_PRECISION), Arm("openvino", "throughput", "fp32"),
    ),
    baselines=(
        Arm("pytorch", "eager", ANY_PRECISION), Arm("pytorch", "compile", ANY_PRECISION),
        Arm("tensorflow", "graph", ANY_PRECISION),
    ),
    primary=(Arm("openvino", "latency", ANY_PRECISION),),
)  # fmt: skip


@pytest.fixture
def plan(monkeypatch):
    """Return a function that makes a plan on a CPU with these instruction sets, where environments may be missing."""
    environment = Environment("e", Path("bin/python"), "3.11", {})

    def plan(*instruction_sets: str, missing: tuple[str, ...] = ()):
        def environment_of(stack):
            if stack.name in missing:
                raise MissingEnvironmentError(f"no {stack.name}")
            return environment

        monkeypatch.setattr(plan_module, "environment_of", environment_of)
        monkeypatch.setattr(plan_module, "instruction_sets", lambda: list(instruction_sets))
        return make_plan(SUITE, PRESETS["smoke"], 1, 2)

    return plan


def test_a_precision_that_a_stack_lacks_is_one_arm_with_its_reason() -> None:
    arm = Arm("tensorflow", "graph", "int8")
    assert arm in SUITE.measured
    assert obstacle(arm, {}, ("avx2", "avx512_vnni"), {}) == "tensorflow has no int8"
    # Another variant of the stack has int8.
    assert Arm("pytorch", "eager", "int8") not in SUITE.measured


def test_an_instruction_set_that_the_cpu_lacks_is_a_reason() -> None:
    bf16 = Arm("pytorch", "compile", "bf16")
    assert obstacle(bf16, {}, ("avx2",), {}) == "this CPU has none of avx512_bf16, amx_bf16"
    assert obstacle(Arm("openvino", "latency"), {}, ("avx512_vnni",), {}) == "this CPU has none of avx2"
    assert obstacle(Arm("openvino", "latency", "bf16"), {}, ("avx2", "amx_bf16"), {}) is None


def test_an_instruction_set_that_the_cpu_lacks_can_not_be_left_unused() -> None:
    without_amx = Arm("ipex", "jit", "bf16", "no-amx")
    assert obstacle(without_amx, {}, ("avx2", "avx512_bf16"), {}) == (
        "this CPU has no amx_tile, which settings no-amx would leave unused"
    )
    assert obstacle(without_amx, {}, ("avx2", "avx512_bf16", "amx_tile"), {}) is None


def test_an_arm_is_either_measured_or_has_an_obstacle(plan) -> None:
    made = plan("avx2", missing=("tensorflow",))
    assert made.missing == {"tensorflow": "no tensorflow"}
    assert made.obstacles[Arm("tensorflow", "graph")] == "no tensorflow"
    assert {*made.arms, *made.obstacles} == set(SUITE.measured)
    assert not {*made.arms} & made.obstacles.keys()


def test_the_plan_holds_the_schedule_of_the_arms_that_can_be_measured(plan) -> None:
    made = plan("avx2")
    assert made.schedule == draw_schedule(made.groups, PRESETS["smoke"], seed=1)
    assert made.schedule is made.schedule
    assert {arm for block in made.schedule for arm in block.start} <= {arm.id for arm in made.arms}


def test_asynchronous_variants_and_other_settings_take_part_in_one_scenario_each(plan) -> None:
    latency, throughput = plan("avx2").groups
    assert Arm("openvino", "throughput") in throughput.arms
    assert Arm("openvino", "throughput") not in latency.arms
    assert Arm("pytorch", "eager", "fp32", "plain") in latency.arms
    assert Arm("pytorch", "eager", "fp32", "plain") not in throughput.arms


def test_pairs_have_equal_precision_and_settings_and_the_primary_one_is_in_fp32() -> None:
    pairs = planned_pairs(SUITE)
    assert all((pair.arm.precision, pair.arm.settings) == (pair.baseline.precision, pair.baseline.settings)
               for pair in pairs)  # fmt: skip
    assert {pair.arm.id for pair in pairs if pair.candidate} == {"openvino/latency"}
    baselines = {pair.baseline.id for pair in pairs if pair.arm == Arm("openvino", "latency", "int8")}
    assert baselines == {"pytorch/compile/int8"}
    baselines = {pair.baseline.id for pair in pairs if pair.arm == Arm("openvino", "throughput")}
    assert baselines == {"pytorch/eager", "pytorch/compile", "tensorflow/graph"}


def test_a_limit_that_the_user_gives_is_an_obstacle_for_the_precisions_that_need_more() -> None:
    sets, given = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    bf16 = Arm("pytorch", "compile", "bf16")
    assert obstacle(bf16, {}, sets, {}) is None
    assert obstacle(bf16, {}, sets, given) == "ONEDNN_MAX_CPU_ISA=AVX2 allows none of avx512_bf16, amx_bf16"
    assert obstacle(bf16, {}, ("avx2",), given) == "this CPU has none of avx512_bf16, amx_bf16"
    assert obstacle(Arm("ipex", "jit"), {}, sets, {"ONEDNN_MAX_CPU_ISA": "SSE41"}) is None


def test_a_variable_that_an_arms_settings_set_can_not_be_given(plan) -> None:
    plan("avx2")
    limited = replace(SUITE, arm_patterns=(*SUITE.arm_patterns, Arm("openvino", "latency", "bf16", "no-amx")))
    variables = UserVariables({"ONEDNN_MAX_CPU_ISA": "AVX2"})
    with pytest.raises(UserError, match="--env ONEDNN_MAX_CPU_ISA: settings no-amx set it; leave out one of the two"):
        make_plan(limited, PRESETS["smoke"], 1, 2, variables)
    made = make_plan(SUITE, PRESETS["smoke"], 1, 2, variables)
    assert (made.variables, made.instruction_sets) == (variables, ("avx2",))


@pytest.mark.parametrize(
    ("name", "packages", "reason"),
    [
        ("vanilla", {"mlcommons-loadgen": "6"}, None),
        ("vanilla", {}, "environment vanilla lacks mlcommons-loadgen; make it again: tox -r -e vanilla --notest"),
        (HARNESS, {}, "mlcommons-loadgen is not installed; install it: python -m pip install cnn-stack-bench[loadgen]"),
    ],
)
def test_an_environment_without_loadgen_is_an_obstacle_that_says_how_to_get_it(name, packages, reason) -> None:
    assert loadgen_obstacle(Environment(name, Path("python"), "3.11", packages)) == reason


def test_arms_are_skipped_where_loadgen_is_not_installed(monkeypatch) -> None:
    monkeypatch.setattr(plan_module, "environment_of", lambda _: Environment(HARNESS, Path("python"), "3.11", {}))
    suite = Suite("load", "", ("single-stream",), ("cnn-small",), (1,), ("fp32",), (Arm("oracle", "numpy"),), (), ())
    plan = make_plan(suite, PRESETS["smoke"], seed=1, threads=1)
    assert not plan.arms
    assert {"mlcommons-loadgen is not installed" in reason for reason in plan.obstacles.values()} == {True}


def test_a_process_of_a_loadgen_suite_has_one_case_and_one_round() -> None:
    suite = Suite(
        "load", "", ("single-stream", "offline"), ("cnn-small",), (8,), ("fp32",), (Arm("oracle", "numpy"),), (), ()
    )
    groups = group_cases(suite, suite.arms)
    assert [len(group.cases) for group in groups] == [1, 1]
    assert {len(block.rounds) for block in draw_schedule(groups, PRESETS["smoke"], 1)} == {1}
