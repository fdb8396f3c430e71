"""Training recipes as data; those of the project are the TOML files in this folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RECIPES = Path(__file__).parent
ADAM, SGD = "adam", "sgd"
OPTIMIZERS = (ADAM, SGD)
CONSTANT, COSINE, ONE_CYCLE, PLATEAU = "constant", "cosine", "one-cycle", "plateau"


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, new in each epoch and uniform between minus and plus these bounds.

    `rotation` and `shear` are in degrees, `shift` and `zoom` fractions of the image size. Only the fraction `share` of
    the images is transformed, because interpolation between pixels blurs them. `flip` mirrors half of all images left
    to right, independently.
    """

    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    share: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether pixels are interpolated."""
        return any((self.rotation, self.shift, self.shear, self.zoom))


@dataclass(frozen=True)
class Recipe:
    """Training settings.

    `initial` names the distribution of the initial kernels (models/weights.py, INITIAL). `rho` is the radius of
    sharpness-aware minimisation; None trains without it. `validation` is the fraction of the training images that is
    held out. After `patience` epochs without a lower validation loss training stops and the best weights are kept (0:
    never). With the plateau schedule, `plateau_patience` such epochs multiply the learning rate by `plateau_factor`.
    With the one-cycle schedule, the learning rate rises linearly during the fraction `warmup` of all steps, and then
    falls linearly to zero.

    `weight_decay` times the weights is added to the gradients of all trained parameters. `label_smoothing` is the
    fraction of each label that is spread evenly over all classes. `target` is the test accuracy whose epoch and cost a
    training reports.
    """

    name: str
    summary: str
    network: str
    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    rho: float | None = None
    schedule: str = CONSTANT
    warmup: float = 0.0
    plateau_patience: int = 3
    plateau_factor: float = 0.5
    validation: float = 0.0
    patience: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    initial: str = "he"
    target: float | None = None
