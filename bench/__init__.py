"""Measure, compare and report the speed of software stacks on one machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.exports.frames import Frames

__version__ = "0.1.0"

# Python looks for packages where the command is typed, and where PYTHONPATH points, before it looks where they are
# installed. A folder there may be called `models` or `backends`, so these two are imported from the place of this one.
_root = str(Path(__file__).parents[1])
sys.path.insert(0, _root)
import backends  # noqa: E402, F401
import models  # noqa: E402, F401

sys.path.remove(_root)


def load(folder: str | Path = "results/latest") -> Frames:
    """Return the results of a run as pandas frames: arms, speedups, slices, samples, blocks and ratios.

    Raises UserError, a ValueError, if the folder holds no run or a damaged one.
    """
    from bench.exports.frames import load_frames

    return load_frames(Path(folder))
