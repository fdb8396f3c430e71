"""The CNNs that are benchmarked, each defined once, and those of the folder that BENCH_MODELS names."""

from __future__ import annotations

import os
import re
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from models.data import CLASSES
from models.errors import UserError
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, Layer, MaxPool2d, Network, ReLU, SpecError

if TYPE_CHECKING:
    from models.recipes.toml_file import TomlFile

# Mean and standard deviation of the 60,000 training images, pixels scaled to [0, 1].
FASHION_MNIST_MEAN, FASHION_MNIST_STD = 0.2860, 0.3530

CNN_SMALL = Network(
    name="cnn-small",
    summary="two convolutions, two dense layers; the CNN of the recipes `small` and `adam`",
    layers=(
        Conv2d(16),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dense(128),
        ReLU(),
        Dense(10),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

# The published recipe gives no sizes; we use the layers of cnn-small, with pixels between -1 and 1.
CNN_SAM = replace(
    CNN_SMALL,
    name="cnn-sam",
    summary="the layers of cnn-small, pixels from -1 to 1; the CNN of the recipe `sam`",
    mean=0.5,
    std=0.5,
)

CNN_VGG = Network(
    name="cnn-vgg",
    summary="seven convolutions in three stages, three dense layers; the CNN of the recipe `vgg`",
    layers=(
        *(Conv2d(64), ReLU(), Conv2d(64), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(128), ReLU(), Conv2d(128), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(256), ReLU(), Conv2d(256), ReLU(), Conv2d(256), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Flatten(), Dense(2048), ReLU(), Dropout(0.5), Dense(512), ReLU(), Dense(10)),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

# The published recipe gives no sizes; the widths double from stage to stage, some with batch normalisation.
CNN_BN = Network(
    name="cnn-bn",
    summary="convolutions of 32, 64 and 128, batch normalisation after some layers; the CNN of the recipe `bn`",
    layers=(
        *(Conv2d(32), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(64), ReLU(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(128), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Flatten(), Dense(128), ReLU(), BatchNorm(), Dropout(0.5), Dense(10)),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

# Pooling comes before normalisation, which then has a quarter of the work.
CNN_FAST = Network(
    name="cnn-fast",
    summary="six convolutions with batch normalisation, one dense layer; the CNN of the recipe `fast-94`",
    layers=(
        *(Conv2d(32), MaxPool2d(2), BatchNorm(momentum=0.9), ReLU()),
        *(Conv2d(64), BatchNorm(momentum=0.9), ReLU()),
        *(Conv2d(128), MaxPool2d(2), BatchNorm(momentum=0.9), ReLU()),
        *(Conv2d(128), BatchNorm(momentum=0.9), ReLU()),
        *(Conv2d(256), MaxPool2d(2), BatchNorm(momentum=0.9), ReLU()),
        *(Conv2d(192), BatchNorm(momentum=0.9), ReLU()),
        *(MaxPool2d(3), Flatten(), Dense(10)),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

NETWORKS = {network.name: network for network in (CNN_SMALL, CNN_SAM, CNN_VGG, CNN_BN, CNN_FAST)}

LAYERS: dict[str, type[Layer]] = {kind.__name__.lower(): kind for kind in get_args(Layer)}
MOST_PARAMETERS = 500_000_000
# The smallest and the largest value of each number in a file that declares a network.
BOUNDS = {
    "filters": (1, 4096), "units": (1, 65_536), "size": (1, 28), "kernel_size": (1, 27), "rate": (0.0, 0.99),
    "epsilon": (1e-12, 1.0), "momentum": (0.0, 1.0), "mean": (0.0, 1.0), "std": (1e-3, 10.0),
}  # fmt: skip


def read_networks(folder: Path) -> dict[str, Network]:
    """Read every network that a TOML file in the folder declares; raise UserError for an invalid one, with its line."""
    # Only here: workers import as little as possible.
    from models.recipes.toml_file import read_toml

    if not folder.is_dir():
        raise UserError(f"BENCH_MODELS: {folder} is not a folder; name one with .toml files that declare networks")
    networks: dict[str, Network] = {}
    for path in sorted(folder.glob("*.toml")):
        file, content = read_toml(path)
        network = _network(file, content)
        if network.name in NETWORKS | networks:
            raise file.error("name", f"there is another network {network.name}; choose another name")
        networks[network.name] = network
    return networks


def _network(file: TomlFile, content: dict[str, Any]) -> Network:
    allowed = ("name", "summary", "mean", "std", "weights", "layers")
    if unknown := sorted(content.keys() - set(allowed)):
        raise file.error(unknown[0], f"unknown key '{unknown[0]}'; allowed: {', '.join(allowed)}")
    if missing := [key for key in ("name", "summary", "layers") if key not in content]:
        raise file.error(missing[0], f"the key '{missing[0]}' is missing")
    texts = {key: content[key] for key in ("name", "summary", "weights") if key in content}
    for key, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise file.error(key, f"{key} is {text!r}; allowed: a text")
    if not re.fullmatch("[a-z][a-z0-9-]*", texts["name"]):
        raise file.error("name", f"name is {texts['name']!r}; allowed: lower-case letters, digits and hyphens")
    if not isinstance(content["layers"], list):
        raise file.error("layers", "layers must be a list")
    checkpoint = file.path.parent / texts["weights"] if "weights" in texts else None
    try:
        if checkpoint and not checkpoint.resolve().is_relative_to(file.path.parent.resolve()):
            raise file.error("weights", f"{checkpoint} is in another folder; name a file in that of this one, or below")
        is_there = checkpoint is None or checkpoint.is_file()
    # A path may be too long, or lead through links without an end.
    except (OSError, RuntimeError) as error:
        raise file.error("weights", f"{texts['weights'][:100]!r} is no path ({error})") from error
    if not is_there:
        raise file.error("weights", f"{checkpoint} is not there; name a .safetensors file, relative to this one")
    numbers = {key: _bounded(file, key, content[key], key) for key in ("mean", "std") if key in content}
    layers = tuple(_layer(file, number, layer) for number, layer in enumerate(content["layers"], 1))
    network = Network(
        texts["name"], texts["summary"], layers, **numbers, checkpoint=str(checkpoint) if checkpoint else None
    )
    _require_ten_classes(file, network)
    return network


def _require_ten_classes(file: TomlFile, network: Network) -> None:
    """Raise UserError if the layers do not fit together, or do not end in one output for each class."""
    try:
        output = network.place()[-1].output_shape if network.layers else network.input_shape
    except SpecError as error:
        raise file.error("layers", str(error)) from error
    if output != (len(CLASSES),):
        raise file.error("layers", f"the last layer's output has the shape {output}; allowed: ({len(CLASSES)},)")
    if network.parameters > MOST_PARAMETERS:
        raise file.error("layers", f"{network.parameters:,} parameters; allowed: up to {MOST_PARAMETERS:,}")


def _layer(file: TomlFile, number: int, content: Any) -> Layer:
    options = dict(content) if isinstance(content, dict) else {}
    kind = options.pop("kind", None)
    if not isinstance(kind, str) or kind not in LAYERS:
        raise file.error("layers", f"layer {number} has the kind {kind!r}; allowed: {', '.join(LAYERS)}")
    known = {field.name: field for field in fields(LAYERS[kind])}
    for key in options.keys() - known.keys():
        raise file.error("layers", f"layer {number}: unknown key '{key}'; allowed: {', '.join(('kind', *known))}")
    for key, field in known.items():
        if key not in options and field.default is MISSING:
            raise file.error("layers", f"layer {number}: a {kind} needs the key '{key}'")
    return LAYERS[kind](**{key: _bounded(file, key, value, "layers") for key, value in options.items()})


def _bounded(file: TomlFile, key: str, value: Any, line_of: str) -> Any:
    low, high = BOUNDS[key]
    whole = isinstance(low, int)
    fits = type(value) is int if whole else type(value) in (int, float)
    # An even kernel has no middle, so frameworks pad it in different ways.
    odd = key != "kernel_size" or (fits and value % 2 == 1)
    if not (fits and low <= value <= high and odd):
        kind = "odd" if key == "kernel_size" else "whole" if whole else "any"
        raise file.error(line_of, f"{key} is {value!r}; allowed: {kind} numbers from {low:g} to {high:g}")
    return value


if os.environ.get("BENCH_MODELS"):
    # Absolute, because workers run in another folder.
    os.environ["BENCH_MODELS"] = str(Path(os.environ["BENCH_MODELS"]).absolute())
    NETWORKS |= read_networks(Path(os.environ["BENCH_MODELS"]))
