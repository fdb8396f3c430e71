"""Measure, compare and report the speed of software stacks on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.exports.frames import Frames

__version__ = "0.1.0"


def load(folder: str | Path = "results/latest") -> Frames:
    """Return the results of a run as pandas frames: arms, speedups, slices, samples, blocks and ratios.

    Raises UserError, a ValueError, if the folder holds no run or a damaged one.
    """
    from bench.exports.frames import load_frames

    return load_frames(Path(folder))
