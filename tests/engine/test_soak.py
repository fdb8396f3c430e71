"""Memory and descriptors stay flat however much is measured; `tests/experiments/soak.py` measures a million samples."""

from __future__ import annotations

from tests.experiments.soak import ARMS_OF_A_BLOCK, ROUNDS, soak

# The samples alone would take 5 MB if they stayed.
MOST_GROWTH_BYTES = 200_000


def test_memory_and_descriptors_are_flat_over_many_blocks(tmp_path) -> None:
    arms = 3 * ARMS_OF_A_BLOCK
    found = soak(tmp_path, arms)
    assert found.failures == 0
    assert found.samples > arms * ROUNDS * 40
    assert found.simulated_s > arms * ROUNDS
    assert len(set(found.descriptors)) == 1
    assert max(found.memory) - found.memory[0] < MOST_GROWTH_BYTES
