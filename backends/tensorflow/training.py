"""Training with TensorFlow: its variants, and the optimiser steps that they share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.builders import FLOATS, require_evidence
from backends.protocol import Proof, ProofError, UnsupportedError, Variant
from backends.tensorflow.framework import ONEDNN, precision_of
from backends.tensorflow.layers import build_model, neutral_weights
from backends.tensorflow.ranks import is_one_of_ranks, join, mean_over_ranks, update_all
from models.recipes import ADAM
from models.spec import Dropout

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from backends.protocol import F32, State, TrainingSpec
    from backends.tensorflow.framework import Framework
    from models.recipes import Recipe
    from models.weights import Weights

# Added to the norm of the gradient, so that a vanishing one does not divide by zero.
TINY = 1e-12
ALL_REDUCE = ("CollectiveReduce",)


@dataclass(frozen=True)
class TrainingBuilder:
    """By which operators a variant is recognised: one with a prefix in `evidence`, none with one in `absent`."""

    variant: Variant
    evidence: tuple[str, ...]
    absent: tuple[str, ...] = ()


TRAINING_BUILDERS = {
    "train": TrainingBuilder(
        Variant("Training with each step as one compiled tf.function", FLOATS, trains=True), ONEDNN
    ),
    "train-no-onednn": TrainingBuilder(
        Variant(
            "As train, with oneDNN switched off: shows what oneDNN itself gives",
            settings={"TF_ENABLE_ONEDNN_OPTS": "0"},
            trains=True,
        ),
        ("Conv2DBackpropFilter",),
        absent=ONEDNN,
    ),
}


class Momentum:
    """Gradient descent with PyTorch's velocity: v = momentum * v + g, w -= rate * v.

    Nesterov's step is w -= rate * (g + momentum * v). Keras's velocity includes the rate, which makes it another
    optimiser as soon as the rate changes.
    """

    def __init__(self, momentum: float, *, nesterov: bool) -> None:
        import tensorflow as tf

        self._momentum, self._nesterov, self.learning_rate = momentum, nesterov, tf.Variable(0.0)
        self.variables: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        import tensorflow as tf

        self.variables = [tf.Variable(tf.zeros_like(variable)) for variable in variables] if self._momentum else []

    def apply(self, gradients: list[Any], variables: list[Any]) -> None:
        velocities = self.variables or [None] * len(variables)
        update_all(self._apply_one, list(zip(variables, gradients, velocities, strict=True)))

    def _apply_one(self, variable: Any, gradient: Any, velocity: Any) -> None:
        direction = gradient
        if self._momentum:
            moved = velocity.assign(self._momentum * velocity + gradient)
            direction = gradient + self._momentum * moved if self._nesterov else moved
        variable.assign_sub(self.learning_rate * direction)


class Adam:
    """Keras's Adam with PyTorch's epsilon."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._keras = tf.keras.optimizers.Adam(epsilon=1e-8)
        self.learning_rate = self._keras.learning_rate

    def build(self, variables: list[Any]) -> None:
        self._keras.build(variables)
        rate = self._keras._learning_rate
        self.variables = [variable for variable in self._keras.variables if variable is not rate]

    def apply(self, gradients: list[Any], variables: list[Any]) -> None:
        # Averaged over the ranks before.
        options = {"skip_gradients_aggregation": True} if is_one_of_ranks() else {}
        self._keras.apply_gradients(zip(gradients, variables, strict=True), **options)


def make_optimizer(recipe: Recipe) -> Adam | Momentum:
    return Adam() if recipe.optimizer == ADAM else Momentum(recipe.momentum, nesterov=recipe.nesterov)


def make_loss(recipe: Recipe) -> Callable[[Any, Any], Any]:
    """Return the mean cross-entropy of labels and logits."""
    import tensorflow as tf

    # Keras averages over a batch itself only where there is no group.
    reduction = "none" if is_one_of_ranks() else "sum_over_batch_size"
    sparse = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    smoothed = tf.keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=recipe.label_smoothing, reduction=reduction
    )

    def loss(labels: Any, logits: Any) -> Any:
        # Only the other class smooths labels.
        if recipe.label_smoothing:
            losses = smoothed(tf.one_hot(labels, logits.shape[-1]), logits)
        else:
            losses = sparse(labels, logits)
        return tf.reduce_mean(losses)

    return loss


class TensorFlowTraining:
    def __init__(self, framework: Framework, builder: TrainingBuilder, spec: TrainingSpec) -> None:
        import tensorflow as tf

        self._framework, self._builder, self._spec = framework, builder, spec
        if spec.group:
            _require_divisible(spec)
            # Before all else: TensorFlow joins a group only while nothing has run.
            self._strategy = join(spec.group)
        else:
            self._strategy = tf.distribute.get_strategy()
        if spec.precision == "bf16":
            tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        # The state of these generators can be set, unlike that of Keras's older ones.
        tf.keras.backend.experimental.enable_tf_random_generator()
        with self._strategy.scope():
            self._model = build_model(spec.network, spec.weights, training=True)
            self._loss = make_loss(spec.recipe)
            self._optimizer = make_optimizer(spec.recipe)
            self._optimizer.build(self._model.trainable_variables)
        self._generators = [
            layer._random_generator._generator
            for layer in self._model.layers
            if isinstance(layer, tf.keras.layers.Dropout)
        ]
        self._step = tf.function(self._step_of_ranks if spec.group else self._take_step)
        self._infer = tf.function(lambda batch: tf.cast(self._model(batch, training=False), tf.float32))
        self.begin_epoch(spec.seed)

    def begin_epoch(self, seed: int) -> None:
        for index, generator in enumerate(self._generators):
            generator.reset_from_seed(seed + index)

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        self._optimizer.learning_rate.assign(learning_rate)
        return float(self._step(images, labels))

    def _step_of_ranks(self, images: Any, labels: Any) -> Any:
        return self._strategy.run(self._take_step, args=(images, labels))

    def _take_step(self, images: Any, labels: Any) -> Any:
        # A radius of zero takes a plain step: after a second pass ITEX would round the optimiser's step differently.
        rho = self._spec.recipe.rho
        loss, gradients = self._sharpened(images, labels, rho) if rho else self._gradients(images, labels)
        if self._spec.group:
            gradients = mean_over_ranks(gradients)
        variables, decay = self._model.trainable_variables, self._spec.recipe.weight_decay
        if decay:
            gradients = [gradient + decay * variable for gradient, variable in zip(gradients, variables, strict=True)]
        self._optimizer.apply(gradients, variables)
        return loss

    def _gradients(self, images: Any, labels: Any) -> tuple[Any, list[Any]]:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self._loss(labels, tf.cast(self._model(images, training=True), tf.float32))
        gradients = tape.gradient(loss, self._model.trainable_variables)
        if lacking := sum(gradient is None for gradient in gradients):
            raise ProofError(f"{lacking} of {len(gradients)} parameters have no gradient")
        return loss, gradients

    def _sharpened(self, images: Any, labels: Any, rho: float) -> tuple[Any, list[Any]]:
        """Return the loss, and the gradients at the worst nearby weights (Foret et al. 2021, algorithm 1).

        Weights and the running statistics of the first pass are restored exactly; both passes drop the same units.
        """
        import tensorflow as tf

        random_states = [generator.state.read_value() for generator in self._generators]
        loss, gradients = self._gradients(images, labels)
        variables = [*self._model.trainable_variables, *self._model.non_trainable_variables]
        before = [tf.identity(variable) for variable in variables]
        with tf.control_dependencies([*before, *gradients]):
            scale = rho / (tf.linalg.global_norm(gradients) + TINY)
            for variable, gradient in zip(self._model.trainable_variables, gradients, strict=True):
                variable.assign_add(gradient * scale)
            for generator, state in zip(self._generators, random_states, strict=True):
                generator.state.assign(state)
            _, sharp = self._gradients(images, labels)
        with tf.control_dependencies(sharp):
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
        return loss, sharp

    def logits(self, images: F32) -> F32:
        logits: F32 = self._infer(images).numpy()
        return logits

    def weights(self) -> Weights:
        return neutral_weights(self._spec.network, self._model)

    def state(self) -> State:
        variables = enumerate(self._optimizer.variables)
        return {str(index): np.array(variable.numpy(), np.float32) for index, variable in variables}

    def restore(self, state: State) -> None:
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(state[str(index)].astype(variable.dtype.as_numpy_dtype))

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        proof = self._framework.prove(
            lambda: self.step(images, labels, 0.0),
            self._builder.evidence,
            self._builder.absent,
            lambda: precision_of(self._step.get_concrete_function(images, labels).graph),
        )
        if self._spec.group is None:
            return proof
        # The graph's, because the profiler misses some of the operators that run in threads of the transport.
        graph = self._step.get_concrete_function(images, labels).graph
        require_evidence({operation.type for operation in graph.get_operations()}, ALL_REDUCE)
        return replace(proof, versions=proof.versions | {"engine": f"{type(self._strategy).__name__}, gRPC"})


def _require_divisible(spec: TrainingSpec) -> None:
    """Raise UnsupportedError for what can't be divided among ranks."""
    if any(isinstance(layer, Dropout) for layer in spec.network.layers):
        raise UnsupportedError(f"{spec.network.name} has dropout, whose generators can't be seeded in a group")
    if spec.recipe.rho:
        raise UnsupportedError("sharpness-aware minimisation moves weights, which a group does only in its optimiser")
