"""Arms and baselines of a suite, and the options that narrow it."""

from dataclasses import replace

import pytest

from bench.suite.arms import ANY_PRECISION, LOADGEN, Arm, Batching, Ladder, Step
from bench.suite.suite import Suite, baselines_of, narrow, takes_part
from models.errors import UserError

EAGER, COMPILED, JIT = (
    Arm("pytorch", "eager", ANY_PRECISION),
    Arm("pytorch", "compile", ANY_PRECISION),
    Arm("ipex", "jit", ANY_PRECISION),
)
SUITE = Suite(
    name="mine",
    summary="a test",
    scenarios=("latency",),
    models=("cnn-small",),
    batch_sizes=(1, 64),
    precisions=("fp32",),
    arm_patterns=(EAGER, COMPILED, JIT),
    baselines=(EAGER, COMPILED),
    primary=(JIT,),
)


def test_the_first_baseline_has_a_replica() -> None:
    assert [arm.id for arm in SUITE.measured] == ["pytorch/eager", "pytorch/eager@A/A", "pytorch/compile", "ipex/jit"]


def test_an_intel_arm_has_every_baseline_and_a_vanilla_arm_the_first() -> None:
    baselines = {arm.id: [baseline.id for baseline in baselines_of(SUITE, arm)] for arm in SUITE.arms}
    assert baselines == {
        "pytorch/eager": [],
        "pytorch/compile": ["pytorch/eager"],
        "ipex/jit": ["pytorch/eager", "pytorch/compile"],
    }


def test_the_command_line_replaces_and_narrows() -> None:
    suite = narrow(SUITE, batch_sizes=[8, 8, 2], chosen_stacks=["pytorch"])
    assert [case.batch_size for case in suite.cases] == [8, 2]
    assert suite.arms == (Arm("pytorch", "eager"), Arm("pytorch", "compile"))
    assert suite.primary == ()


def test_without_its_vanilla_stack_an_intel_arm_has_no_baseline_and_no_replica() -> None:
    suite = narrow(SUITE, chosen_stacks=["ipex"])
    assert suite.measured == (Arm("ipex", "jit"),)
    assert baselines_of(suite, suite.arms[0]) == []


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"models": ["resnet"]}, "unknown model"),
        ({"precisions": ["fp8"]}, "unknown precision"),
        ({"batch_sizes": [0]}, "--batch-size 0"),
        ({"chosen_stacks": ["oracle"]}, "no arm of oracle; its stacks: pytorch, ipex"),
        ({"environments": ["conda"]}, "unknown environment 'conda'"),
        ({"environments": ["openvino"]}, "has no stack in the environments openvino"),
        ({"environments": ["vanilla"], "chosen_stacks": ["ipex"]}, "--stack ipex: is not in the environments vanilla"),
    ],
)
def test_unknown_names_on_the_command_line_are_refused(option, reason) -> None:
    with pytest.raises(UserError, match=reason):
        narrow(SUITE, **option)


def test_environments_choose_their_stacks() -> None:
    assert narrow(SUITE, environments=["ipex"]).arms == (Arm("ipex", "jit"),)


def test_a_suite_that_names_precisions_has_no_arm_at_others() -> None:
    named = replace(SUITE, arm_patterns=(Arm("pytorch", "eager"),))
    with pytest.raises(UserError, match="suite mine has no arm at bf16; its arms have fp32"):
        narrow(named, precisions=["bf16"])


def test_a_limit_adds_the_arms_to_which_it_applies_and_a_step_before_the_first() -> None:
    bf16, int8 = (Arm("openvino", "latency", precision) for precision in ("bf16", "int8"))
    steps = tuple(Step(arm.precision, arm) for arm in (Arm("openvino", "latency"), bf16, int8))
    suite = replace(SUITE, arm_patterns=(*SUITE.arm_patterns, bf16, int8), ladders=(Ladder("openvino", steps),))
    limited = narrow(suite, limits=["no-amx"])
    assert set(limited.arms) - set(suite.arms) == {replace(arm, settings="no-amx") for arm in (bf16, int8)}
    (ladder,) = limited.ladders
    assert [step.name for step in ladder.steps] == ["fp32", "bf16 without AMX", "bf16", "int8"]
    assert ladder.steps[1].arm == replace(bf16, settings="no-amx")


@pytest.mark.parametrize(("precisions", "limited"), [(["bf16"], ["pytorch/eager/bf16", "ipex/jit/bf16"]), ([], [])])
def test_a_limit_applies_to_open_patterns_at_the_precisions_that_are_measured(precisions, limited) -> None:
    suite = replace(SUITE, arm_patterns=(EAGER, JIT, Arm("openvino", "latency", "int8")))
    if precisions:
        suite = replace(suite, arm_patterns=(EAGER, JIT))
    arms = narrow(suite, precisions=precisions, limits=["no-amx"]).arms
    assert [arm.id for arm in arms if arm.settings == "no-amx"] == (
        [f"{name}+no-amx" for name in limited] or ["openvino/latency/int8+no-amx"]
    )


def test_a_limit_without_an_arm_is_an_error() -> None:
    with pytest.raises(UserError, match="--isa no-amx: suite mine has no arm at bf16 or int8"):
        narrow(SUITE, limits=["no-amx"])


def test_an_unknown_limit_is_an_error() -> None:
    with pytest.raises(UserError, match="unknown instruction set 'sse'; allowed: no-amx"):
        narrow(SUITE, limits=["sse"])


STOCK, INTEL = Arm("pytorch", "eager"), Arm("ipex", "jit")
BATCHED, WORKERS = replace(STOCK, batching=Batching(8, 1000)), replace(STOCK, workers=True)
QUEUE = Arm("openvino", "throughput")
LOAD = replace(
    SUITE, scenarios=LOADGEN, batch_sizes=(64,), server_bound_us=1000, baselines=(STOCK,),
    arm_patterns=(STOCK, BATCHED, WORKERS, INTEL, QUEUE),
)  # fmt: skip


def test_loadgen_fixes_the_samples_of_a_query_except_for_offline() -> None:
    assert [(case.scenario, case.batch_size) for case in LOAD.cases if case.model == LOAD.models[0]] == [
        ("single-stream", 1), ("multi-stream", 8), ("offline", 64), ("server", 1),
    ]  # fmt: skip


def test_batching_workers_and_queues_take_part_where_queries_need_not_wait_for_each_other() -> None:
    taking_part = {
        case.scenario: [arm for arm in LOAD.arms if takes_part(arm, case)]
        for case in LOAD.cases
        if case.model == LOAD.models[0]
    }
    assert taking_part == {
        "single-stream": [STOCK, INTEL],
        "multi-stream": [STOCK, INTEL],
        "offline": [STOCK, WORKERS, INTEL, QUEUE],
        "server": [STOCK, BATCHED, WORKERS, INTEL, QUEUE],
    }


def test_a_queue_is_compared_with_workers_if_there_are_any() -> None:
    assert baselines_of(LOAD, QUEUE) == [WORKERS]
    assert baselines_of(replace(LOAD, arm_patterns=(STOCK, QUEUE)), QUEUE) == [STOCK]
    assert baselines_of(LOAD, INTEL) == [STOCK]


@pytest.mark.parametrize(("largest", "sizes"), [(2, (2,)), (8, (2, 4, 8)), (6, (2, 4, 6))])
def test_a_server_has_sessions_for_powers_of_two_up_to_the_largest_batch(largest, sizes) -> None:
    assert Batching(largest, 1).sizes == sizes


def test_options_are_part_of_the_name() -> None:
    assert (BATCHED.id, WORKERS.id) == ("pytorch/eager~8in1000us", "pytorch/eager~workers")
    assert (BATCHED.slug, WORKERS.slug) == ("pytorch-eager-8in1000us", "pytorch-eager-workers")
