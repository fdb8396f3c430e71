"""LoadGen's own process, and the workers that it hands its queries to."""

import pytest

from bench.worker import load_workers
from bench.worker.process import NotReadyError


def test_a_worker_that_does_not_listen_is_waited_for_as_long_as_the_user_wants(tmp_path, monkeypatch) -> None:
    clock = iter(range(0, 1000, 40))
    monkeypatch.setattr(load_workers, "now_ns", lambda: next(clock) * 10**9)
    monkeypatch.setattr(load_workers, "CONNECT_STEP_S", 0)
    monkeypatch.setenv("BENCH_TIMEOUT_FACTOR", "2")
    with pytest.raises(NotReadyError, match=r"does not listen after 120 s; BENCH_TIMEOUT_FACTOR=4"):
        load_workers._connect(str(tmp_path / "nobody"))
    # The deadline, then three looks within 120 s, and one after it.
    assert next(clock) == 5 * 40
