"""The command line with less of everything that only takes time: images, slices, and limits of the machine.

`python -m tests.shortened` does what `python -m bench` does.
"""

from __future__ import annotations

import runpy
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.engine import choice, limits, workers
from bench.suite.schedule import PRESETS
from models import synthetic

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGES, SLICE_NS, OVERHEAD_NS, ORDER, WORKING_SETS_BYTES = 50, 2_000_000, 100_000, 64, (1 << 18,)
# As many as preset smoke trains on.
TRAINING_IMAGES = 6400
# tox sets these for tests (toxfile.py), and the harness drops them.
WAITING = ("OMP_WAIT_POLICY", "OPENBLAS_THREAD_TIMEOUT")
# Other work on the machine keeps no turn waiting for a quiet moment.
SETTLE_LIMIT_NS = 2_000_000


def shorten() -> None:
    """Change this process, in which nothing has been measured yet."""
    shorten_preparations(IMAGES)
    for name, preset in PRESETS.items():
        PRESETS[name] = replace(preset, slice_ns=SLICE_NS, warm_up_limit_ns=0)
    workers.SETTLE_LIMIT_NS = SETTLE_LIMIT_NS


def shorten_preparations(most: int, put: Callable[[object, str, object], None] = setattr) -> None:
    """Change what comes before the first block: at most so many synthetic test images, short trials, small limits.

    Threads of workers sleep while they wait. A test undoes it: `put` is its `monkeypatch.setattr`.
    """
    draw = synthetic.draw
    let_threads_sleep(put)
    put(synthetic, "draw", lambda count, stream: draw(min(count, (TRAINING_IMAGES, most)[stream]), stream))
    put(choice, "SLICE_NS", SLICE_NS)
    put(limits, "OVERHEAD_NS", OVERHEAD_NS)
    put(limits, "ORDER", ORDER)
    put(limits, "WORKING_SETS_BYTES", WORKING_SETS_BYTES)


def shorten_real_run() -> None:
    """Let this process measure one block of preset smoke, with threads that sleep while they wait."""
    let_threads_sleep()
    PRESETS["smoke"] = replace(PRESETS["smoke"], blocks=1, training_blocks=1)


def let_threads_sleep(put: Callable[[object, str, object], None] = setattr) -> None:
    put(workers, "INHERITED", (*workers.INHERITED, *WAITING))


if __name__ == "__main__":
    shorten()
    runpy.run_module("bench", run_name="__main__", alter_sys=True)
