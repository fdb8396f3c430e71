"""How long anything may take: every limit is multiplied by one number that the user can choose."""

from __future__ import annotations

import os
from contextlib import suppress

from models.errors import UserError

# Multiplies all timeouts on machines for which they are too short.
TIMEOUT_VARIABLE, MOST_TIMEOUT_FACTOR = "BENCH_TIMEOUT_FACTOR", 1000.0
LONGER = f"{TIMEOUT_VARIABLE}=4 would wait four times as long"


def timeout_factor() -> float:
    """Return what all timeouts are multiplied by; raises UserError if the variable is no sensible number."""
    text = os.environ.get(TIMEOUT_VARIABLE, "1")
    with suppress(ValueError):
        if 0 < (factor := float(text)) <= MOST_TIMEOUT_FACTOR:
            return factor
    raise UserError(f"{TIMEOUT_VARIABLE}={text}: allowed: a number above 0, up to {MOST_TIMEOUT_FACTOR:g}")
