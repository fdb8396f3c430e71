"""Compare Keras's description of a network with ours, and take from it what the weights do not say."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from models.formats.contents import Stated
from models.formats.layouts import CHANNELS_FIRST, CHANNELS_LAST
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU
from models.weights import WeightsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from models.spec import Layer, Network

# Layers that do nothing in inference, or only change the shape of a tensor whose order stays.
WITHOUT_EFFECT = ("InputLayer", "Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "Reshape")
RANDOM = "Random"
PIXELS_TO = 255


def stated_by(path: Path, config: str, network: Network) -> Stated:
    """Return what a description says of the network; raise WeightsError if its layers are not the network's."""
    try:
        content = json.loads(config)
        layers = list(_layers(content["config"]))
        ours = [_word(layer) for layer in network.layers if not isinstance(layer, Dropout)]
        theirs = [word for name, about in layers for word in _words(name, about)]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: its description of the network can't be read ({error})") from error
    # A softmax changes no prediction.
    theirs = theirs[:-1] if theirs[-1:] == ["softmax"] else theirs
    norm_first = _norm_first(_activations_before_pools(theirs), ours)
    if norm_first is None:
        first = next(
            (index for index, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]),
            min(len(theirs), len(ours)),
        )
        held, needed = (words[first] if first < len(words) else "nothing" for words in (theirs, ours))
        raise WeightsError(
            f"{path}: does not fit {network.name}: its layers are {', '.join(theirs)}, with {held} where "
            f"{network.name} has {needed}"
        )
    return Stated(
        layout=_flatten_order(path, layers),
        epsilons=tuple(float(about["epsilon"]) for name, about in layers if name == "BatchNormalization"),
        norm_first=norm_first,
        pixels=_pixels(path, layers, network),
    )


def _layers(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the class and the settings of each layer, those of models inside included."""
    for layer in config["layers"]:
        name, about = layer["class_name"], layer["config"]
        if "layers" in about:
            yield from _layers(about)
        elif name not in WITHOUT_EFFECT and not name.startswith(RANDOM):
            yield name, about


def _word(layer: Layer) -> str:
    match layer:
        case Conv2d(filters, size):
            return f"convolution of {size}x{size} to {filters}"
        case ReLU():
            return "ReLU"
        case BatchNorm():
            return "batch normalisation"
        case MaxPool2d(size):
            return f"maximum of {size}x{size}"
        case Flatten():
            return "flatten"
        case Dense(units):
            return f"dense to {units}"
        case Dropout():
            return "dropout"


def _words(name: str, about: dict[str, Any]) -> list[str]:
    """Return our words for a layer and its activation; settings that our layers can't have become a part of them."""
    words: list[str]
    match name:
        case "Conv2D":
            expected = {"strides": (1, 1), "dilation_rate": (1, 1), "padding": "same", "groups": 1}
            size = "x".join(map(str, about["kernel_size"]))
            words = [f"convolution of {size} to {about['filters']}" + _odd(about, expected)]
        case "Dense":
            words = [f"dense to {about['units']}"]
        case "BatchNormalization":
            words = ["batch normalisation" + _odd(about, {"scale": True, "center": True})]
        case "MaxPooling2D" | "MaxPool2D":
            expected = {"padding": "valid", "strides": tuple(about["pool_size"])}
            words = [f"maximum of {'x'.join(map(str, about['pool_size']))}" + _odd(about, expected)]
        case "Flatten":
            words = ["flatten"]
        case "ReLU":
            odd = _odd(about, {"max_value": None, "negative_slope": 0, "threshold": 0})
            words = ["ReLU" + odd]
        case "Activation":
            words = []
        case "Softmax":
            words = ["softmax"]
        case "Rescaling":
            return []
        case _:
            return [name]
    activation = about.get("activation", "linear")
    activation = activation.get("config", activation) if isinstance(activation, dict) else activation
    names = {"linear": [], None: [], "relu": ["ReLU"]}
    return words + names.get(activation, [str(activation)])


def _odd(about: dict[str, Any], expected: dict[str, Any]) -> str:
    """Return the settings that differ from the expected ones, as a suffix."""
    actual = {name: about.get(name, value) for name, value in expected.items()}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in actual.items()}
    return "".join(f", {name} {value}" for name, value in plain.items() if value != expected[name])


def _activations_before_pools(words: list[str]) -> list[str]:
    """Put each ReLU in front of the pooling that it follows: the maximum is the same in either order."""
    words = list(words)
    for index in range(1, len(words)):
        if words[index] == "ReLU" and words[index - 1].startswith("maximum"):
            words[index - 1 : index + 1] = words[index], words[index - 1]
    return words


def _norm_first(theirs: list[str], ours: list[str]) -> tuple[bool, ...] | None:
    """Return for each batch normalisation whether it precedes the activation; None if the layers are not ours."""
    norm, index = "batch normalisation", 0
    norm_first = []
    while index < max(len(theirs), len(ours)):
        if theirs[index : index + 1] == ours[index : index + 1]:
            norm_first += [False] if ours[index] == norm else []
            index += 1
        elif theirs[index : index + 2] == [norm, "ReLU"] and ours[index : index + 2] == ["ReLU", norm]:
            norm_first.append(True)
            index += 2
        else:
            return None
    return tuple(norm_first)


def _flatten_order(path: Path, layers: list[tuple[str, dict[str, Any]]]) -> str:
    """Return the order in which feature maps are flattened.

    A Flatten that knows that channels come first moves them to the end; one that does not keeps them where they are.
    """
    formats = [
        about.get("data_format") or "channels_last"
        for name, about in layers
        if name in ("Conv2D", "MaxPooling2D", "MaxPool2D", "Flatten")
    ]
    maps, flatten = sorted(set(formats[:-1])), formats[-1]
    if maps == [flatten]:
        return CHANNELS_LAST
    if maps == ["channels_first"]:
        return CHANNELS_FIRST
    raise WeightsError(f"{path}: its layers disagree about the order of channels: data_format is {', '.join(formats)}")


def _pixels(path: Path, layers: list[tuple[str, dict[str, Any]]], network: Network) -> tuple[float, float] | None:
    """Return the mean and deviation that a first layer for scaling stands for, given pixels from 0 to 255."""
    scalings = [index for index, (name, _) in enumerate(layers) if name == "Rescaling"]
    if not scalings:
        return None
    about = layers[0][1]
    if (
        scalings != [0]
        or not all(isinstance(about[name], int | float) for name in ("scale", "offset"))
        or not about["scale"]
    ):
        raise WeightsError(
            f"{path}: does not fit {network.name}: scaling of pixels is allowed only as the first layer, by one number"
        )
    scale = float(about["scale"]) * PIXELS_TO
    return -float(about["offset"]) / scale, 1 / scale
