"""How TensorFlow, and what is derived from it, trains."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from backends import onednn
from backends.protocol import Proof, ProofError, Variant, first_line, require_evidence
from backends.tensorflow_models import NAMES, build_model, operators, precision_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from backends.protocol import F32, State, TrainingSpec
    from backends.tensorflow import TensorFlow
    from models.recipes import Recipe
    from models.weights import Weights

TINY = 1e-12  # keeps the norm of a vanishing gradient from dividing by zero


@dataclass(frozen=True)
class TrainingWay:
    """How a variant trains: operators that must run, and such that must not, as proof that it did."""

    build: Callable[[Any], Any]
    evidence: tuple[str, ...]
    absent: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("fp32", "bf16")
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""
        return Variant(first_line(self.build), self.precisions, self.settings, training=True)


def step(take_step: Any) -> Any:
    """Train in steps that are each one compiled tf.function."""
    import tensorflow as tf

    return tf.function(take_step)


def step_without_onednn(take_step: Any) -> Any:
    """Train in such steps with oneDNN switched off: what oneDNN itself gives."""
    return step(take_step)


TRAININGS = {
    "train": TrainingWay(step, ("_Mkl",)),
    "train-no-onednn": TrainingWay(
        step_without_onednn,
        ("Conv2DBackpropFilter",),
        absent=("_Mkl",),
        precisions=("fp32",),
        settings={"TF_ENABLE_ONEDNN_OPTS": "0"},
    ),
}


class Momentum:
    """Gradient descent with the velocity of PyTorch, v = momentum * v + g, w -= rate * v.

    Keras's puts the rate into the velocity, which is another optimiser as soon as the rate changes.
    """

    def __init__(self, momentum: float) -> None:
        import tensorflow as tf

        self._momentum, self.learning_rate = momentum, tf.Variable(0.0)
        self.variables: list[Any] = []

    def build(self, variables: list[Any]) -> None:
        """Make a velocity for each variable."""
        import tensorflow as tf

        self.variables = [tf.Variable(tf.zeros_like(each)) for each in variables] if self._momentum else []

    def apply(self, gradients: list[Any], variables: list[Any]) -> None:
        """Move the variables."""
        for index, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
            velocity = gradient
            if self._momentum:
                velocity = self.variables[index].assign(self._momentum * self.variables[index] + gradient)
            variable.assign_sub(self.learning_rate * velocity)


class Adam:
    """Keras's own, with PyTorch's epsilon."""

    def __init__(self) -> None:
        import tensorflow as tf

        self._keras = tf.keras.optimizers.Adam(epsilon=1e-8)
        self.learning_rate = self._keras.learning_rate

    def build(self, variables: list[Any]) -> None:
        """Make the moments of each variable."""
        self._keras.build(variables)
        self.variables = [each for each in self._keras.variables if each is not self._keras._learning_rate]

    def apply(self, gradients: list[Any], variables: list[Any]) -> None:
        """Move the variables."""
        self._keras.apply_gradients(zip(gradients, variables, strict=True))


def optimizer_of(recipe: Recipe) -> Adam | Momentum:
    """Return the recipe's optimiser."""
    return Adam() if recipe.optimizer == "adam" else Momentum(recipe.momentum)


class TensorFlowTraining:
    """A Keras model and its optimiser."""

    def __init__(self, backend: TensorFlow, course: TrainingSpec) -> None:
        import tensorflow as tf

        self._backend, self._course, self._way = backend, course, backend.trainings[course.variant]
        if course.precision == "bf16":
            tf.keras.mixed_precision.set_global_policy("mixed_bfloat16")
        tf.keras.backend.experimental.enable_tf_random_generator()  # whose state can be set, unlike the old one's
        self._model = build_model(course.network, course.weights, training=True)
        self._generators = [
            layer._random_generator._generator
            for layer in self._model.layers
            if isinstance(layer, tf.keras.layers.Dropout)
        ]
        self._loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._optimizer = optimizer_of(course.recipe)
        self._optimizer.build(self._model.trainable_variables)
        self._step = self._way.build(self._take_step)
        self._infer = tf.function(lambda batch: tf.cast(self._model(batch, training=False), tf.float32))
        self.begin_epoch(course.seed)

    def begin_epoch(self, seed: int) -> None:
        """Seed dropout."""
        for index, generator in enumerate(self._generators):
            generator.reset_from_seed(seed + index)

    def step(self, images: F32, labels: NDArray[np.int64], learning_rate: float) -> float:
        """Take one step of the optimiser on the mean cross-entropy."""
        self._optimizer.learning_rate.assign(learning_rate)
        return float(self._step(images, labels))

    def _take_step(self, images: Any, labels: Any) -> Any:
        # A radius of zero takes the plain way: ITEX would round the optimiser's step otherwise behind a second pass.
        rho = self._course.recipe.rho
        loss, gradients = self._sharpened(images, labels, rho) if rho else self._descend(images, labels)
        self._optimizer.apply(gradients, self._model.trainable_variables)
        return loss

    def _descend(self, images: Any, labels: Any) -> tuple[Any, list[Any]]:
        """Return the loss of a batch, and its gradients."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = self._loss(labels, tf.cast(self._model(images, training=True), tf.float32))
        gradients = tape.gradient(loss, self._model.trainable_variables)
        if lacking := sum(each is None for each in gradients):
            raise ProofError(f"{lacking} of {len(gradients)} parameters have no gradient")
        return loss, gradients

    def _sharpened(self, images: Any, labels: Any, rho: float) -> tuple[Any, list[Any]]:
        """Return the loss, and the gradients at the worst nearby weights (Foret et al. 2021, algorithm 1).

        The weights come back exactly, as do the running statistics of the first pass; dropout drops the same.
        """
        import tensorflow as tf

        chances = [each.state.read_value() for each in self._generators]
        loss, gradients = self._descend(images, labels)
        variables = [*self._model.trainable_variables, *self._model.non_trainable_variables]
        before = [tf.identity(each) for each in variables]
        with tf.control_dependencies([*before, *gradients]):
            scale = rho / (tf.linalg.global_norm(gradients) + TINY)
            for variable, gradient in zip(self._model.trainable_variables, gradients, strict=True):
                variable.assign_add(gradient * scale)
            for generator, state in zip(self._generators, chances, strict=True):
                generator.state.assign(state)
            _, sharp = self._descend(images, labels)
        with tf.control_dependencies(sharp):
            for variable, value in zip(variables, before, strict=True):
                variable.assign(value)
        return loss, sharp

    def logits(self, images: F32) -> F32:
        """Return the logits of an NHWC batch, as in inference."""
        found: F32 = self._infer(images).numpy()
        return found

    def weights(self) -> Weights:
        """Return the weights in neutral layout, which is Keras's own."""
        found = {
            f"{layer.name}.{NAMES[variable.name.rpartition('/')[2].removesuffix(':0')]}": variable.numpy()
            for layer in self._model.layers
            for variable in layer.variables
            if variable.name.rpartition("/")[2].removesuffix(":0") in NAMES
        }
        return {name: found[name].reshape(shape) for name, shape in self._course.network.parameter_shapes.items()}

    def state(self) -> State:
        """Return the optimiser's variables, numbered."""
        return {str(index): np.array(each.numpy(), np.float32) for index, each in enumerate(self._optimizer.variables)}

    def restore(self, state: State) -> None:
        """Continue with an optimiser's variables."""
        for index, variable in enumerate(self._optimizer.variables):
            variable.assign(state[str(index)].astype(variable.dtype.as_numpy_dtype))

    def prove(self, images: F32, labels: NDArray[np.int64]) -> Proof:
        """Trace one step that moves nothing and look for the variant's operators."""
        ran = tuple(sorted(operators(lambda: self.step(images, labels, 0.0))))
        require_evidence(ran, self._way.evidence, self._way.absent)
        kernels, versions = self._backend.observe(lambda: self.step(images, labels, 0.0))
        precision = onednn.precision(kernels) or self._precision(images, labels)
        names = (*ran, *sorted(map(str, kernels)))
        return Proof(precision, self._backend.threads(), names, self._backend.versions() | versions)

    def _precision(self, images: F32, labels: NDArray[np.int64]) -> str:
        """Return the type of what is multiplied, as the graph has it."""
        return precision_of(self._step.get_concrete_function(images, labels).graph)
