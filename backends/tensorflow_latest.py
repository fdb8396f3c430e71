"""The newest TensorFlow: what an upgrade gives, compared with an extension that ties its users to an old version."""

from __future__ import annotations

from dataclasses import replace

from backends import tensorflow
from backends.builders import variants_of
from backends.tensorflow import TensorFlow
from backends.tensorflow.inference import INFERENCE_BUILDERS

BUILDERS = {name: INFERENCE_BUILDERS[name] for name in ("graph", "frozen")}

STACK = replace(
    tensorflow.STACK,
    name="tensorflow-latest",
    summary="TensorFlow, vanilla, newest version: what an upgrade alone gives",
    environment="latest",
    # No training: its Keras updates the running variance with the batch's divided by n, as no other stack does.
    variants=variants_of(BUILDERS),
    default_training=None,
    baselines=("tensorflow",),
    upgrade_of="tensorflow",
)


class Latest(TensorFlow):
    inference_builders = BUILDERS


def open_backend(threads: int) -> Latest:
    return Latest(threads)
