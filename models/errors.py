"""The root of all errors whose message is one line for the user."""

from __future__ import annotations


class InputError(ValueError):
    """What the user gave is wrong; the message says what, where, what is allowed and how to mend it."""
