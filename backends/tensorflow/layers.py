"""Build the networks from Keras layers, and load neutral weights into them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.formats.keras import KERAS
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.spec import Network, PlacedLayer
    from models.weights import Weights

# Our names of parameters by Keras's.
NAMES = {keras.removesuffix(":0"): ours for ours, keras in KERAS.items()}


def build_model(network: Network, weights: Weights, *, training: bool = False) -> Any:
    import tensorflow as tf

    layers = [layer for placed in network.place() for layer in _layers(placed, training=training)]
    model = tf.keras.Sequential([tf.keras.Input(network.input_shape), *layers])
    by_name = {layer.name: layer for layer in model.layers}
    for placed in network.place():
        if placed.parameter_shapes:
            by_name[placed.name].set_weights([weights[name] for name in placed.parameter_shapes])
    return model


def neutral_weights(network: Network, model: Any) -> Weights:
    """Return the parameters of a model made by `build_model`; Keras's layout is the neutral one."""
    arrays = {}
    for layer in model.layers:
        for variable in layer.variables:
            name = variable.name.rpartition("/")[2].removesuffix(":0")
            if name in NAMES:
                arrays[f"{layer.name}.{NAMES[name]}"] = variable.numpy()
    return {name: arrays[name].reshape(shape) for name, shape in network.parameter_shapes.items()}


def _layers(placed: PlacedLayer, *, training: bool) -> Iterator[Any]:
    import tensorflow as tf

    keras, name = tf.keras.layers, placed.name
    match placed.layer:
        case Conv2d(filters, size):
            yield keras.Conv2D(filters, size, padding="same", name=name)
        case ReLU():
            yield keras.ReLU(name=name)
        case BatchNorm(epsilon, momentum):
            norm = keras.BatchNormalization(epsilon=epsilon, momentum=momentum, name=name)
            # Only the operator for images updates the running variance with the batch's divided by n - 1.
            flat = training and len(placed.input_shape) == 1
            image = (1, 1, *placed.input_shape)
            yield from (keras.Reshape(image), norm, keras.Reshape(placed.input_shape)) if flat else (norm,)
        case MaxPool2d(size):
            yield keras.MaxPool2D(size, name=name)
        case Dropout(rate):
            yield keras.Dropout(rate, name=name)
        case Flatten():
            yield keras.Flatten(name=name)
        case Dense(units):
            yield keras.Dense(units, name=name)
