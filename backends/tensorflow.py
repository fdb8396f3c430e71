"""TensorFlow as everyone installs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from backends import onednn
from backends.protocol import (
    F32,
    InferenceSpec,
    Proof,
    Session,
    Stack,
    Training,
    TrainingSpec,
    Variant,
    first_line,
    require_evidence,
    variants_of,
    way_of,
)
from backends.tensorflow_models import build_model, operators, precision_of
from backends.tensorflow_training import TRAININGS, TensorFlowTraining, TrainingWay

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


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
    variants=variants_of(WAYS, TRAININGS),
    modules=("tensorflow",),
    settings={
        "TF_ENABLE_ONEDNN_OPTS": "1",  # TensorFlow's own default on every CPU with VNNI or BF16
        "TF_CPP_MIN_LOG_LEVEL": "0",  # some of its messages are evidence
        "CUDA_VISIBLE_DEVICES": "-1",
    },
)


class TensorFlowSession:
    """A Keras model called in one variant's way."""

    def __init__(self, backend: TensorFlow, deployment: InferenceSpec) -> None:
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
        ran = tuple(sorted(operators(lambda: self.step(batch))))
        require_evidence(ran, self._way.evidence, self._way.absent)
        kernels, versions = self._backend.observe(lambda: self.step(batch))
        precision = onednn.precision(kernels) or self._precision()
        names = (*ran, *sorted(map(str, kernels)))
        return Proof(precision, self._backend.threads(), names, self._backend.versions() | versions)

    def _precision(self) -> str:
        """Return the type of what is multiplied, as the graph has it."""
        import tensorflow as tf

        traced = tf.function(self._logits, input_signature=[self._signature]).get_concrete_function().graph
        return precision_of(traced)

    def save(self, folder: Path) -> None:
        """Write a SavedModel."""
        import tensorflow as tf

        module = tf.Module()
        module.model, module.serve = self._model, graph(self._logits, self._signature)
        tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())


class TensorFlow:
    """The framework, and the hooks that a derived stack replaces."""

    ways: Mapping[str, Way] = WAYS
    trainings: Mapping[str, TrainingWay] = TRAININGS

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

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build a session; the process stays in its precision from here on."""
        return TensorFlowSession(self, deployment)

    def training(self, course: TrainingSpec) -> Training:
        """Build a training; the process stays in its precision from here on."""
        return TensorFlowTraining(self, course)


def open_backend(threads: int) -> TensorFlow:
    """Import TensorFlow and set its threads."""
    return TensorFlow(threads)
