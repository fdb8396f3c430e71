"""The newest TensorFlow: what upgrading gives, beside what an extension gives that keeps its users on an old one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from backends import tensorflow
from backends.protocol import UnsupportedError
from backends.tensorflow import TensorFlow

if TYPE_CHECKING:
    from backends.protocol import Training
    from models.recipes import Recipe
    from models.spec import Network
    from models.weights import Weights

WAYS = {name: tensorflow.WAYS[name] for name in ("graph", "frozen")}

STACK = replace(
    tensorflow.STACK,
    name="tensorflow-latest",
    summary="TensorFlow, vanilla, newest version: what simply upgrading gives",
    environment="latest",
    variants={name: way.variant for name, way in WAYS.items()},
    baselines=("tensorflow",),
)


class Latest(TensorFlow):
    """TensorFlow, with two of its variants."""

    ways = WAYS

    def training(self, network: Network, weights: Weights, recipe: Recipe, seed: int) -> Training:
        """Refuse: its Keras moves the running variance by the batch's divided by n, which no other stack does."""
        raise UnsupportedError("tensorflow-latest does not train: its batch normalisation is not the other stacks'")


def open_backend(threads: int) -> Latest:
    """Import TensorFlow and set its threads."""
    return Latest(threads)
