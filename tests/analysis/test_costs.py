"""Start-up times, and after how many images a faster arm makes up for a longer start."""

from dataclasses import replace

import pytest

from bench.analysis.costs import arm_compiles, cost
from bench.records import Start
from bench.run_info import VariantInfo
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run


@pytest.fixture
def builder(tmp_path):
    return inference_run(tmp_path / "run")


def test_break_even_is_the_longer_start_over_the_gain_of_an_image(builder) -> None:
    """Starts of 60 and 1,030 ns, 200 and 100 us an image: 970 ns take 0.0097 images."""
    run = builder.read()
    assert cost(run, JIT, CASE).break_even_images == pytest.approx(0.0097, rel=0.05)
    assert cost(run, EAGER, CASE).break_even_images is None


def test_a_restart_with_filled_caches_is_measured_or_equals_the_start_of_an_arm_that_fills_none(builder) -> None:
    run = builder.read()
    assert (cost(run, EAGER, CASE).restart_ns, cost(run, COMPILE, CASE).restart_ns) == (60, None)
    builder.records.append(Start(COMPILE.id, CASE.id, True, 1, 2, 3))
    assert cost(builder.read(), COMPILE, CASE).restart_ns == 6


@pytest.mark.parametrize(("recorded", "expected"), [(None, True), (True, True), (False, False)])
def test_runs_that_did_not_record_which_variants_compile_go_by_their_names(builder, recorded, expected) -> None:
    stack = builder.info.stacks["pytorch"]
    assert arm_compiles(builder.read(), COMPILE)
    assert not arm_compiles(builder.read(), EAGER)
    variants = {"compile": VariantInfo("", {}, recorded), "eager": VariantInfo("", {}, recorded)}
    run = builder.describe(stacks=builder.info.stacks | {"pytorch": replace(stack, variants=variants)}).read()
    assert arm_compiles(run, COMPILE) is expected
    assert arm_compiles(run, EAGER) is (recorded is True)
