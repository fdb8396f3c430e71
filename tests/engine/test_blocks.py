"""When a planned look stops a run."""

import pytest

from bench.engine.run import is_settled
from bench.records import Proof
from tests.analysis.recorded_run import JIT, inference_run


@pytest.mark.parametrize(
    ("jit", "noise", "settled"),
    [(100_000, 0.005, True), (134_000, 0.005, True), (134_000, 0.1, False)],
    ids=["a clear difference", "known to within 1 %", "still open"],
)
def test_a_look_stops_when_the_primary_comparison_is_known(tmp_path, jit, noise, settled) -> None:
    assert is_settled(inference_run(tmp_path / "run", preset="publish", noise=noise, jit=jit).write()) is settled


def test_a_look_does_not_stop_on_a_verdict_that_is_withheld(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", preset="publish")
    assert not is_settled(builder.change(Proof, lambda proof: proof.arm == JIT.id, agreement=0.5).write())
