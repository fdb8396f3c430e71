"""The copy of a node's journal takes no frame that a run does not write."""

import pytest

from bench.fleet.driver import NodeDamagedError
from bench.fleet.mirror import Mirror


@pytest.mark.parametrize(
    "frame",
    [b"R{bad", b'R"\\ud800"', b"R" + b"[" * 100_000, b"J\xff", b"Jtext", b"E[]", b"E{", b"X", b""],
    ids=lambda frame: repr(frame[:12]),
)
def test_a_frame_that_no_run_writes_is_damage(tmp_path, frame) -> None:
    mirror = Mirror(tmp_path / "node")
    try:
        with pytest.raises(NodeDamagedError):
            mirror.feed(frame)
    finally:
        mirror.close()
