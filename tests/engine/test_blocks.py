"""When a planned look stops a run."""

import pytest
from bench.engine.blocks import _is_settled

from bench.records import Proof
from tests.analysis.test_speedups import JIT, Story


@pytest.mark.parametrize(
    ("jit", "noise", "settled"),
    [(100_000, 0.005, True), (134_000, 0.005, True), (134_000, 0.1, False)],
    ids=["a clear difference", "known to within 1 %", "still open"],
)
def test_a_look_stops_when_the_primary_comparison_is_known(tmp_path, jit, noise, settled) -> None:
    told = Story(tmp_path / "run", preset="publish")
    told.measure(noise=noise, eager=200_000, twin=200_000, compile=134_000, jit=jit).read()
    assert _is_settled(tmp_path / "run") is settled


def test_a_look_does_not_stop_on_a_verdict_that_is_withheld(tmp_path) -> None:
    told = Story(tmp_path / "run", preset="publish").measure(eager=2e5, twin=2e5, compile=1.34e5, jit=1e5)
    told.change(Proof, lambda each: each.arm == JIT.id, agreement=0.5).read()
    assert not _is_settled(tmp_path / "run")
