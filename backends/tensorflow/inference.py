"""Inference with TensorFlow: its variants, and the session that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from backends.builders import FLOATS
from backends.protocol import F32, InferenceSpec, Proof, Variant
from backends.tensorflow.framework import ONEDNN, precision_of
from backends.tensorflow.layers import build_model

if TYPE_CHECKING:
    from pathlib import Path

    from backends.tensorflow.framework import Framework

# Takes a function of a batch and the signature of that batch; returns the callable that is timed.
Build: TypeAlias = Callable[[Callable[[Any], Any], Any], Any]


@dataclass(frozen=True)
class InferenceBuilder:
    """How a variant is built, and by which operators it is recognised.

    The profile must contain an operator with a prefix in `evidence`, and none with a prefix in `absent`. Plug-ins
    rewrite graphs only where `plugin_optimizers` is set.
    """

    variant: Variant
    build: Build
    evidence: tuple[str, ...]
    absent: tuple[str, ...] = ()
    plugin_optimizers: bool = True


def call(model: Callable[[Any], Any], signature: Any) -> Any:
    return model


def graph(model: Callable[[Any], Any], signature: Any) -> Any:
    import tensorflow as tf

    return tf.function(model, input_signature=[signature])


def frozen(model: Callable[[Any], Any], signature: Any) -> Any:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    constant = convert_variables_to_constants_v2(graph(model, signature).get_concrete_function())
    # The graph optimiser sees it only inside another function; called directly it would run unchanged.
    return tf.function(lambda batch: constant(batch)[0], input_signature=[signature])


def xla(model: Callable[[Any], Any], signature: Any) -> Any:
    import tensorflow as tf

    return tf.function(model, input_signature=[signature], jit_compile=True)


INFERENCE_BUILDERS = {
    "call": InferenceBuilder(
        Variant("The Keras model called directly, operator by operator"),
        call,
        # Outside a graph TensorFlow uses its own convolution for one image.
        (*ONEDNN, "Conv2D"),
    ),
    "graph": InferenceBuilder(Variant("A tf.function of fixed shape: the recommended idiom", FLOATS), graph, ONEDNN),
    "frozen": InferenceBuilder(
        Variant("A tf.function with the weights as constants of its graph: the strongest stock variant", FLOATS),
        frozen,
        ONEDNN,
    ),
    "xla": InferenceBuilder(
        Variant("The graph compiled with XLA, which has its own kernels instead of oneDNN's"), xla, ("Hlo",)
    ),
    "no-onednn": InferenceBuilder(
        Variant(
            "A tf.function with oneDNN switched off: shows what oneDNN itself gives",
            settings={"TF_ENABLE_ONEDNN_OPTS": "0"},
        ),
        graph,
        ("_FusedConv2D", "Conv2D"),
        absent=ONEDNN,
    ),
}


class TensorFlowSession:
    def __init__(self, framework: Framework, builder: InferenceBuilder, spec: InferenceSpec) -> None:
        import tensorflow as tf

        self._framework, self._builder = framework, builder
        if not builder.plugin_optimizers:
            tf.config.optimizer.set_experimental_options({"use_plugin_optimizers": False})
        if spec.precision == "bf16":
            tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        self._model = build_model(spec.network, spec.weights)
        self._signature = tf.TensorSpec((spec.batch_size, *spec.network.input_shape), tf.float32)
        self.step: Callable[[Any], Any] = builder.build(self._logits, self._signature)

    def _logits(self, batch: Any) -> Any:
        import tensorflow as tf

        return tf.cast(self._model(batch, training=False), tf.float32)

    def prepare(self, images: F32) -> Any:
        import tensorflow as tf

        return tf.convert_to_tensor(images.copy())

    def to_numpy(self, logits: Any) -> F32:
        array: F32 = logits.numpy()
        return array

    def prove(self, batch: Any) -> Proof:
        def graph_precision() -> str:
            return precision_of(graph(self._logits, self._signature).get_concrete_function().graph)

        return self._framework.prove(
            lambda: self.step(batch), self._builder.evidence, self._builder.absent, graph_precision
        )

    def save(self, folder: Path) -> None:
        import tensorflow as tf

        module = tf.Module()
        module.model, module.serve = self._model, graph(self._logits, self._signature)
        tf.saved_model.save(module, str(folder), signatures=module.serve.get_concrete_function())
