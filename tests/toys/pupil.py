"""A vanilla stack for tests that only trains: the baseline of the toy's trainings."""

from __future__ import annotations

from backends.toy import open_backend

from backends.protocol import Stack, Variant

STACK = Stack(
    name="pupil",
    summary="a vanilla stack for tests that trains",
    environment=None,
    packages=("numpy",),
    variants={"train": Variant("Add up the inputs", trains=True)},
    default_training="train",
)

__all__ = ["STACK", "open_backend"]
