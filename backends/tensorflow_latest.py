"""The newest TensorFlow: what upgrading gives, beside what an extension gives that keeps its users on an old one."""

from __future__ import annotations

from dataclasses import replace

from backends import tensorflow
from backends.tensorflow import TensorFlow

WAYS = {name: tensorflow.WAYS[name] for name in ("graph", "frozen")}

STACK = replace(
    tensorflow.STACK,
    name="tensorflow-latest",
    summary="TensorFlow, vanilla, newest version: what simply upgrading gives",
    environment="latest",
    # None that trains: its Keras moves the running variance by the batch's divided by n, which no other stack does.
    variants={name: way.variant for name, way in WAYS.items()},
    baselines=("tensorflow",),
)


class Latest(TensorFlow):
    """TensorFlow, with two of its variants."""

    ways = WAYS


def open_backend(threads: int) -> Latest:
    """Import TensorFlow and set its threads."""
    return Latest(threads)
