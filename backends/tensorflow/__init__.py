"""TensorFlow, vanilla."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.builders import builder_for, variants_of
from backends.protocol import InferenceSpec, Session, Stack, Training, TrainingSpec
from backends.tensorflow.framework import Framework
from backends.tensorflow.inference import INFERENCE_BUILDERS, InferenceBuilder, TensorFlowSession
from backends.tensorflow.training import TRAINING_BUILDERS, TensorFlowTraining, TrainingBuilder

if TYPE_CHECKING:
    from collections.abc import Mapping

STACK = Stack(
    name="tensorflow",
    summary="TensorFlow, vanilla",
    environment="vanilla",
    packages=("tensorflow",),
    variants=variants_of(INFERENCE_BUILDERS, TRAINING_BUILDERS),
    default_variant="graph",
    default_training="train",
    modules=("tensorflow",),
    settings={
        # TensorFlow's own default on every CPU with VNNI or BF16.
        "TF_ENABLE_ONEDNN_OPTS": "1",
        # Some of its messages are evidence.
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
    },
)


class TensorFlow(Framework):
    """The backend; derived stacks replace its builders and the hooks of Framework."""

    inference_builders: Mapping[str, InferenceBuilder] = INFERENCE_BUILDERS
    training_builders: Mapping[str, TrainingBuilder] = TRAINING_BUILDERS

    def inference(self, spec: InferenceSpec) -> Session:
        """Build a session; from here on the process stays in the session's precision."""
        return TensorFlowSession(self, builder_for(self.inference_builders, spec), spec)

    def training(self, spec: TrainingSpec) -> Training:
        """Build a training; from here on the process stays in the training's precision."""
        return TensorFlowTraining(self, self.training_builders[spec.variant], spec)


def open_backend(threads: int) -> TensorFlow:
    return TensorFlow(threads)
