"""Build the networks from Keras layers, and tell which operators ran."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.h5 import KERAS
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from models.spec import Network, PlacedLayer
    from models.weights import Weights

# In a trace: "dense1/MatMul:_MklMatMul", "_MklNativeConv2D" of an operator called by itself, "Hlo Proto" of a program
# of XLA.
OPERATOR = re.compile(rb"(?<=[\w.]:)_*[A-Z]\w+|(?<!\w)_[A-Z]\w+|(?<=Execute: )[A-Z]\w+|Hlo Proto")
NO_OPERATORS = {"CPU"}
HEAVY = ("Conv2D", "MatMul")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


def precision_of(graph: Any) -> str:
    """Return the type of what a graph multiplies."""
    types = {each.outputs[0].dtype.name for each in graph.get_operations() if each.type in HEAVY}
    return "+".join(sorted(PRECISIONS.get(each, each) for each in types))


def operators(run: Callable[[], Any]) -> set[str]:
    """Return the operators that ran, by the names under which TensorFlow registers them."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run()
        tf.profiler.experimental.stop()
        traces = [path.read_bytes() for path in Path(folder).rglob("*.xplane.pb")]
    return {name.decode() for trace in traces for name in OPERATOR.findall(trace)} - NO_OPERATORS


NAMES = {keras.removesuffix(":0"): ours for ours, keras in KERAS.items()}  # Keras's names of parameters, and ours


def build_model(network: Network, weights: Weights, *, training: bool = False) -> Any:
    """Build `network` from Keras layers and load neutral weights into it."""
    import tensorflow as tf

    layers = [layer for placed in network.place() for layer in _layers(placed, training=training)]
    model = tf.keras.Sequential([tf.keras.Input(network.input_shape), *layers])
    named = {layer.name: layer for layer in model.layers}
    for placed in network.place():
        if placed.parameter_shapes:
            named[placed.name].set_weights([weights[name] for name in placed.parameter_shapes])
    return model


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
            # Only its operator for images moves the running variance by the batch's divided by n - 1.
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
