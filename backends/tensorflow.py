"""TensorFlow as everyone installs it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from backends import onednn
from backends.protocol import (
    F32,
    Deployment,
    Proof,
    ProofError,
    Session,
    Stack,
    Training,
    UnsupportedError,
    Variant,
    first_line,
    way_of,
)
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from models.recipes import Recipe
    from models.spec import Network, PlacedLayer
    from models.weights import Weights

# From a function of a batch and that batch's signature to what is called.
Builder: TypeAlias = Callable[[Callable[[Any], Any], Any], Any]


@dataclass(frozen=True)
class Way:
    """How a variant is built, at which precisions, and how it shows.

    Of the operators `evidence` one must appear in the profile, and none of `absent`; any prefix will do.
    """

    build: Builder
    evidence: tuple[str, ...]
    absent: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "bf16")
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""
        return Variant(first_line(self.build), precisions=self.precisions, settings=dict(self.settings))


def call(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call the Keras model directly, operator by operator."""
    return model


def graph(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call a tf.function of fixed shape: what people write who care."""
    import tensorflow as tf

    return tf.function(model, input_signature=[signature])


def frozen(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call a tf.function whose weights are constants of its graph: the strongest stock inference."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    constant = convert_variables_to_constants_v2(graph(model, signature).get_concrete_function())
    # Inside another function the graph optimiser gets to see it; called by itself it would run as it is.
    return tf.function(lambda batch: constant(batch)[0], input_signature=[signature])


def xla(model: Callable[[Any], Any], signature: Any) -> Any:
    """Compile the graph with XLA, which brings its own kernels instead of oneDNN's."""
    import tensorflow as tf

    return tf.function(model, input_signature=[signature], jit_compile=True)


def without_onednn(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call a tf.function with oneDNN switched off: what oneDNN itself gives."""
    return graph(model, signature)


ONEDNN = ("_Mkl",)
WAYS = {
    # For one image it takes its own convolution, when called operator by operator.
    "call": Way(call, (*ONEDNN, "Conv2D"), precisions=("fp32",)),
    "graph": Way(graph, ONEDNN),
    "frozen": Way(frozen, ONEDNN),
    "xla": Way(xla, ("Hlo",), precisions=("fp32",)),
    "no-onednn": Way(
        without_onednn,
        ("_FusedConv2D", "Conv2D"),
        absent=ONEDNN,
        precisions=("fp32",),
        settings={"TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
}

STACK = Stack(
    name="tensorflow",
    summary="TensorFlow, vanilla",
    environment="vanilla",
    packages=("tensorflow",),
    variants={name: way.variant for name, way in WAYS.items()},
    modules=("tensorflow",),
    settings={
        "TF_ENABLE_ONEDNN_OPTS": "1",  # TensorFlow's own default on every CPU with VNNI or BF16
        "TF_CPP_MIN_LOG_LEVEL": "0",  # some of its messages are evidence
        "CUDA_VISIBLE_DEVICES": "-1",
    },
)

# In a trace: "dense1/MatMul:_MklMatMul", "_MklNativeConv2D" of an operator called by itself, "Hlo Proto" of a program
# of XLA.
OPERATOR = re.compile(rb"(?<=[\w.]:)_*[A-Z]\w+|(?<!\w)_[A-Z]\w+|(?<=Execute: )[A-Z]\w+|Hlo Proto")
NO_OPERATORS = {"CPU"}
HEAVY = ("Conv2D", "MatMul")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}


class TensorFlowSession:
    """A Keras model called in one variant's way."""

    def __init__(self, backend: TensorFlow, deployment: Deployment) -> None:
        import tensorflow as tf

        self._backend, self._way = backend, way_of(backend.ways, deployment)
        if deployment.precision == "bf16":
            tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        self._model = build_model(deployment.network, deployment.weights)
        shape = (deployment.batch_size, *deployment.network.input_shape)
        self._signature = tf.TensorSpec(shape, tf.float32)
        self._deployment = deployment
        self.step: Callable[[Any], Any] = self._way.build(self._logits, self._signature)

    def _logits(self, batch: Any) -> Any:
        import tensorflow as tf

        return tf.cast(self._model(batch, training=False), tf.float32)

    def prepare(self, images: F32) -> Any:
        """Copy an NHWC batch into a tensor."""
        import tensorflow as tf

        return tf.convert_to_tensor(images.copy())

    def to_numpy(self, logits: Any) -> F32:
        """Copy the logits into an array."""
        array: F32 = logits.numpy()
        return array

    def prove(self, batch: Any) -> Proof:
        """Trace one step and look for the variant's operators."""
        ran = tuple(sorted(_operators(lambda: self.step(batch))))
        if not any(name.startswith(self._way.evidence) for name in ran):
            raise ProofError(f"none of {', '.join(self._way.evidence)} ran")
        if unwanted := [name for name in ran if name.startswith(self._way.absent or "-")]:
            raise ProofError(f"{', '.join(unwanted)} ran")
        kernels, versions = self._backend.observe(lambda: self.step(batch))
        precision = onednn.precision(kernels) or self._precision()
        names = (*ran, *sorted(map(str, kernels)))
        return Proof(precision, self._backend.threads(), names, self._backend.versions() | versions)

    def _precision(self) -> str:
        """Return the type of what is multiplied, as the graph has it."""
        import tensorflow as tf

        traced = tf.function(self._logits, input_signature=[self._signature]).get_concrete_function().graph
        types = {each.outputs[0].dtype.name for each in traced.get_operations() if each.type in HEAVY}
        return "+".join(sorted(PRECISIONS.get(each, each) for each in types))

    def save(self, folder: Path) -> None:
        """Write a SavedModel."""
        import tensorflow as tf

        module = tf.Module()
        module.model, module.serve = self._model, graph(self._logits, self._signature)
        tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())


def _operators(run: Callable[[], Any]) -> set[str]:
    """Return the operators that ran, by the names under which TensorFlow registers them."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run()
        tf.profiler.experimental.stop()
        traces = [path.read_bytes() for path in Path(folder).rglob("*.xplane.pb")]
    return {name.decode() for trace in traces for name in OPERATOR.findall(trace)} - NO_OPERATORS


class TensorFlowTraining:
    """A Keras model and its optimiser, one compiled step at a time."""

    def __init__(self, network: Network, model: Any, optimizer: Any) -> None:
        import tensorflow as tf

        self._network, self._model, self._optimizer = network, model, optimizer
        self._loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        optimizer.build(model.trainable_variables)
        self._step = tf.function(self._take_step, reduce_retracing=True)

    def _take_step(self, images: Any, labels: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self._loss(labels, self._model(images, training=True))
        gradients = tape.gradient(loss, self._model.trainable_variables)
        self._optimizer.apply_gradients(zip(gradients, self._model.trainable_variables, strict=True))
        return loss

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one step of the optimiser on the mean cross-entropy."""
        self._optimizer.learning_rate = learning_rate
        return float(self._step(images, labels))

    def weights(self) -> Weights:
        """Return the weights in neutral layout, which is Keras's own."""
        found = {
            f"{layer.name}.{NAMES[variable.name.rpartition('/')[2].removesuffix(':0')]}": variable.numpy()
            for layer in self._model.layers
            for variable in layer.variables
            if variable.name.rpartition("/")[2].removesuffix(":0") in NAMES
        }
        return {name: found[name].reshape(shape) for name, shape in self._network.parameter_shapes.items()}


class TensorFlow:
    """The framework, and the hooks that a derived stack replaces."""

    ways: Mapping[str, Way] = WAYS

    def __init__(self, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def threads(self) -> int:
        """Return the threads of an operator."""
        import tensorflow as tf

        threads: int = tf.config.threading.get_intra_op_parallelism_threads()
        return threads

    def versions(self) -> dict[str, str]:
        """Return the framework's version."""
        import tensorflow as tf

        return {"tensorflow": tf.__version__}

    def observe(self, run: Callable[[], Any]) -> tuple[set[onednn.Kernel], dict[str, str]]:
        """Return the kernels, and versions, that can be seen while `run` does its work; stock TensorFlow shows none."""
        return set(), {}

    def inference(self, deployment: Deployment) -> Session:
        """Build a session; the process stays in its precision from here on."""
        return TensorFlowSession(self, deployment)

    def training(self, network: Network, weights: Weights, recipe: Recipe, seed: int) -> Training:
        """Build a training."""
        import tensorflow as tf

        # Adam adds PyTorch's epsilon, which is not Keras's.
        optimizers = {"adam": lambda: tf.keras.optimizers.Adam(epsilon=1e-8), "sgd": tf.keras.optimizers.SGD}
        if recipe.optimizer not in optimizers:
            raise UnsupportedError(f"no optimiser {recipe.optimizer}; there are {', '.join(optimizers)}")
        tf.keras.utils.set_random_seed(seed)
        return TensorFlowTraining(network, build_model(network, weights, training=True), optimizers[recipe.optimizer]())


def open_backend(threads: int) -> TensorFlow:
    """Import TensorFlow and set its threads."""
    return TensorFlow(threads)


# Keras's names of parameters, and ours.
NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "scale",
    "beta": "shift",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


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
