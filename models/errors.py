"""The error whose message is shown to the user as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(ValueError):
    """Invalid input: the message says what is wrong, where, what is allowed and how to fix it. Exit status 2."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    return UserError(f"unknown {kind} '{value}'; allowed: {', '.join(allowed)}")
