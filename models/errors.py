"""The error whose message is shown to the user as one line."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class UserError(ValueError):
    """Invalid input: the message says what is wrong, where, what is allowed and how to fix it. Exit status 2."""


# What the user can do about an error of the file system.
REMEDIES = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for a larger quota",
    errno.EACCES: "make it accessible to you",
    errno.EPERM: "make it accessible to you",
    errno.EROFS: "mount it with write access",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs, which have too many files open",
}


def remedy_of(error: OSError) -> str:
    """Return what the user can do about an error of the file system, as a command that `or` can follow."""
    return REMEDIES.get(error.errno or 0, "check the disk that it is on")


def unknown(kind: str, value: str, allowed: Iterable[str]) -> UserError:
    return UserError(f"unknown {kind} '{value}'; allowed: {', '.join(allowed)}")
