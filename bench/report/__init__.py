"""From the analysis to tables, plots and pages."""

from __future__ import annotations

import os
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_personal_settings() -> Iterator[None]:
    """Let Matplotlib be imported without the user's own settings, with which plots may fail or look different.

    Matplotlib looks for a file in the current folder, then at MATPLOTLIBRC, and for a backend in MPLBACKEND.
    """
    ours = {"MATPLOTLIBRC": os.devnull, "MPLBACKEND": "agg"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        with chdir(Path(__file__).parent):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
