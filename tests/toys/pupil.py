"""A vanilla stack for tests that trains as the toy does: what the toy is held against."""

from __future__ import annotations

from backends.toy import open_backend

from backends.protocol import Stack, Variant

STACK = Stack(
    name="pupil",
    summary="a vanilla stack for tests that trains",
    environment=None,
    packages=("numpy",),
    variants={"train": Variant("Add up what it was fed", trains=True)},
)

__all__ = ["STACK", "open_backend"]
