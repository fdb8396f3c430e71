"""The plot of a hyper-parameter search."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from bench.report.plot_style import COLOURS, STYLE, svg_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.training.tune import Trained


def trials_plot(trained: Sequence[Trained]) -> str:
    """Draw the held-out accuracy by trial, with the best so far, and by each setting; return the SVG."""
    accuracies = [trial.accuracy * 100 for trial in trained]
    names = list(trained[0].settings)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.0 * (len(names) + 1), 3.2))
        first, *others = figure.subplots(1, len(names) + 1, sharey=True, squeeze=False)[0]
        numbers = [trial.number for trial in trained]
        first.plot(numbers, accuracies, "o", color=COLOURS[0], ms=4)
        first.plot(numbers, np.maximum.accumulate(accuracies), "-", color=COLOURS[1])
        first.set(xlabel="trial", ylabel="held-out accuracy, %", title="line: best so far")
        for axes, name in zip(others, names, strict=True):
            axes.plot([trial.settings[name] for trial in trained], accuracies, "o", color=COLOURS[0], ms=4)
            axes.set(xlabel=name.replace("_", " "), xscale="log")
        return svg_of(figure)
