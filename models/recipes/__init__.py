"""Declare how a network is trained; the published recipes lie beside this file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent
OPTIMIZERS = ("adam", "sgd")
CONSTANT, COSINE, PLATEAU = "constant", "cosine", "plateau"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, drawn anew in each epoch, uniformly up to these bounds to either side.

    `rotation` and `shear` are in degrees, `shift` and `zoom` shares of the image's size, `flip` mirrors left to right.
    `share` is that of the images that are moved at all: moving one blurs it, as it falls between pixels. One of two is
    mirrored, moved or not.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    share: float = 1.0

    @property
    def moves(self) -> bool:
        """Tell whether pixels are interpolated."""
        return any((self.rotation, self.shift, self.shear, self.zoom))


@dataclass(frozen=True)
class Recipe:
    """Training settings.

    `initial` names how the kernels are drawn (models/weights.py, INITIAL).
    `rho` is the radius of sharpness-aware minimisation over the optimiser; None trains without it. `validation` is the
    share of the training images that is held out; on it `patience` epochs without a better loss end the training and
    bring the best weights back (0: never), and `plateau_patience` of them multiply the learning rate by
    `plateau_factor`, where that is the `schedule`.
    """

    name: str
    summary: str
    network: str
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    rho: float | None = None
    schedule: str = CONSTANT
    plateau_patience: int = 3
    plateau_factor: float = 0.5
    validation: float = 0.0
    patience: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    initial: str = "he"


def from_dict(content: dict[str, Any]) -> Recipe:
    """Return the recipe that `dataclasses.asdict` has taken apart."""
    return Recipe(**{**content, "augmentation": Augmentation(**content["augmentation"])})
