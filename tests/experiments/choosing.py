"""What choosing the rule with narrower intervals costs: how often the chosen interval misses the truth.

    python tests/experiments/choosing.py

Two rules estimate the same ratios, whose blocks are normal. All comparisons of a case share a baseline, and so half of
their variance. The rule is chosen as a report does.
"""

from __future__ import annotations

import math
import sys
from itertools import product
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from bench.analysis.latency import blocks_of_case, lack_of_rest
from bench.analysis.stats import wilcoxon_interval

BLOCKS, CONFIDENCE, INTERVALS = 16, 0.95, 20_000
# At rest throughout, so that only widths decide.
QUIET = blocks_of_case({1: {"arm": {0: [1.0]}}}).values()


def main() -> None:
    random = np.random.default_rng(3)
    for comparisons, correlation, widening in product((2, 4, 16), (0.0, 0.7), (1.0, 1.2)):
        missed: dict[str, list[bool]] = {"at rest": [], "as it was": [], "chosen": []}
        for _ in range(INTERVALS // comparisons):
            arms, baseline = random.standard_normal((3, comparisons, BLOCKS)), random.standard_normal((3, 1, BLOCKS))
            shared, own, other = (arms + baseline) / math.sqrt(2)
            at_rest, as_it_was = (
                [
                    wilcoxon_interval(factor * row, CONFIDENCE)
                    for row in math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * rule
                ]
                for rule, factor in ((own, widening), (other, 1.0))
            )
            is_wider = lack_of_rest(QUIET, 1, zip(at_rest, as_it_was, strict=True))
            for name, intervals in (
                ("at rest", at_rest),
                ("as it was", as_it_was),
                ("chosen", as_it_was if is_wider else at_rest),
            ):
                missed[name] += [interval is not None and interval.excludes(0) for interval in intervals]
        print(
            f"{comparisons:2d} comparisons, correlation {correlation}, at rest {widening} times as wide: missed "
            + ", ".join(f"{name} {np.mean(values):.2%}" for name, values in missed.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
