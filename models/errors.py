"""The one error whose message is a line for the user."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(ValueError):
    """What the user gave is wrong; the message says what, where, what is allowed and how to mend it. Exit status 2."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not among `allowed`."""
    return UserError(f"unknown {kind} '{value}'; allowed: {', '.join(allowed)}")
