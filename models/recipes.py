"""Declare how a network is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Training settings; the learning rate falls from `learning_rate` to zero along half a cosine when `cosine`."""

    name: str
    network: str
    epochs: int
    batch_size: int
    learning_rate: float
    cosine: bool = False
    optimizer: str = "adam"


# The published recipe `adam`, with its CNN, and with a learning rate that falls to zero.
ADAM = Recipe("adam", "cnn-small", epochs=12, batch_size=64, learning_rate=1e-3, cosine=True)

# The published recipe `bn` without its augmentation, with the same falling learning rate.
BN = Recipe("bn", "cnn-bn", epochs=12, batch_size=64, learning_rate=1e-3, cosine=True)

RECIPES = {recipe.name: recipe for recipe in (ADAM, BN)}
