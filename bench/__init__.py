"""Measure, compare and report the speed of software stacks on one machine."""

import sys
from pathlib import Path

__version__ = "0.1.0"

# Python looks for packages where the command is typed, and where PYTHONPATH points, before it looks where they are
# installed. A folder there may be called `models` or `backends`, so these two are imported from the place of this one.
_root = str(Path(__file__).parents[1])
sys.path.insert(0, _root)
import backends  # noqa: E402, F401
import models  # noqa: E402, F401

sys.path.remove(_root)
