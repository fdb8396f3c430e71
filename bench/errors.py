"""Errors that a user can cause or mend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(InputError):
    """Wrong input to the harness. Exit status 2."""


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    """Return the error for a name that is not among `allowed`."""
    return UserError(f"unknown {kind} '{value}'; allowed: {', '.join(allowed)}")
