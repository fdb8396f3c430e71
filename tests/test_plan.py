from collections import Counter

from bench.plan import PRESETS, draw_schedule
from bench.records import Arm, Case

CASES = [Case("cnn-small", "latency", size, "fp32") for size in (1, 64)]
ARMS = [Arm("oracle", "numpy"), Arm("oracle", "numpy", replica=True), Arm("toy", "good")]


def test_every_arm_has_one_slice_in_every_round() -> None:
    for block in draw_schedule(CASES, ARMS, PRESETS["quick"], seed=1):
        assert all(sorted(order) == sorted(arm.id for arm in ARMS) for order in block.rounds)


def test_each_case_is_measured_once_per_block_number() -> None:
    schedule = draw_schedule(CASES, ARMS, PRESETS["quick"], seed=1)
    assert Counter((block.number, block.case) for block in schedule) == {
        (number, case.id): 1 for number in range(1, 9) for case in CASES
    }


def test_the_seed_decides_the_schedule() -> None:
    draw = [draw_schedule(CASES, ARMS, PRESETS["quick"], seed) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_in_two_rounds_every_arm_precedes_every_other_once() -> None:
    schedule = draw_schedule(CASES[:1], ARMS, PRESETS["standard"], seed=3)
    orders = [order for block in schedule for order in block.rounds]
    for one, two in zip(orders[::2], orders[1::2], strict=True):
        assert two == one[::-1]


def test_every_arm_comes_first_about_equally_often() -> None:
    blocks = [block for seed in range(50) for block in draw_schedule(CASES, ARMS, PRESETS["quick"], seed)]
    first = Counter(order[0] for block in blocks for order in block.rounds)
    total = sum(first.values())
    assert all(0.30 < first[arm.id] / total < 0.37 for arm in ARMS)


def test_presets_are_those_of_the_protocol() -> None:
    found = {preset.name: (preset.blocks, preset.confidence, preset.looks) for preset in PRESETS.values()}
    assert found == {
        "smoke": (2, None, ()),
        "quick": (8, 0.95, ()),
        "standard": (20, 0.95, ()),
        "publish": (64, 0.9833, (16, 32)),
    }
