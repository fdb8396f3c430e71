"""The command line with less of everything that only takes time: images, slices, and limits of the machine.

`python -m tests.shortened` does what `python -m bench` does.
"""

from __future__ import annotations

import runpy
from dataclasses import replace

from bench.engine import limits, workers
from bench.suite.schedule import PRESETS
from models import synthetic

IMAGES, SLICE_NS, OVERHEAD_NS, ORDER, WORKING_SETS_BYTES = 50, 2_000_000, 100_000, 64, (1 << 18,)
# Other work on the machine keeps no turn waiting for a quiet moment.
SETTLE_LIMIT_NS = 2_000_000


def shorten() -> None:
    """Change this process, in which nothing has been measured yet."""
    draw = synthetic.draw
    synthetic.draw = lambda count, stream: draw(min(count, IMAGES), stream)
    for name, preset in PRESETS.items():
        PRESETS[name] = replace(preset, slice_ns=SLICE_NS, warm_up_limit_ns=0)
    limits.OVERHEAD_NS, limits.ORDER, limits.WORKING_SETS_BYTES = OVERHEAD_NS, ORDER, WORKING_SETS_BYTES
    workers.SETTLE_LIMIT_NS = SETTLE_LIMIT_NS


if __name__ == "__main__":
    shorten()
    runpy.run_module("bench", run_name="__main__", alter_sys=True)
