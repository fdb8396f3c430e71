"""TensorFlow with the Intel extension, which registers itself when TensorFlow is imported."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import onednn
from backends.builders import FLOATS, variants_of
from backends.protocol import Stack, UnsupportedError, Variant
from backends.tensorflow import TensorFlow
from backends.tensorflow.framework import ONEDNN
from backends.tensorflow.inference import InferenceBuilder, frozen, graph
from backends.tensorflow.training import TrainingBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

EXTENSION = ("_ITEX",)
ONEDNN_LIBRARY = "/libonednn_cpu"
INFERENCE_BUILDERS = {
    "graph": InferenceBuilder(
        Variant("A tf.function of fixed shape, rewritten by the extension", FLOATS), graph, EXTENSION
    ),
    "frozen": InferenceBuilder(
        Variant(
            "A tf.function with the weights as constants of its graph, rewritten by the extension: its best", FLOATS
        ),
        frozen,
        EXTENSION,
    ),
    "eigen": InferenceBuilder(
        Variant("As frozen, on TensorFlow's own threads instead of OpenMP's", settings={"ITEX_OMP_THREADPOOL": "0"}),
        frozen,
        EXTENSION,
    ),
    "off": InferenceBuilder(
        Variant(
            "As tensorflow/graph, with the extension installed but switched off: a control that must show no difference"
        ),
        graph,
        ONEDNN,
        absent=EXTENSION,
        plugin_optimizers=False,
    ),
}
TRAINING_BUILDERS = {
    "train": TrainingBuilder(
        Variant("Training with each step as one compiled tf.function, rewritten by the extension", FLOATS, trains=True),
        EXTENSION,
    )
}

STACK = Stack(
    name="itex",
    summary="TensorFlow with the Intel extension (no longer maintained; last release 2.15)",
    environment="itex",
    packages=("tensorflow", "intel-extension-for-tensorflow", "intel-extension-for-tensorflow-lib"),
    variants=variants_of(INFERENCE_BUILDERS, TRAINING_BUILDERS),
    default_variant="frozen",
    default_training="train",
    modules=("tensorflow",),
    baselines=("tensorflow",),
    intel=True,
    needs=("avx2",),
)


class Itex(TensorFlow):
    """The backend, for inference and training with the extension, or for the control that switches it off.

    Raises UnsupportedError when the extension is not loaded, because TensorFlow would then run without it.
    """

    inference_builders = INFERENCE_BUILDERS
    training_builders = TRAINING_BUILDERS

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if not _loaded(ONEDNN_LIBRARY):
            raise UnsupportedError("the extension's library is not loaded: TensorFlow would run without it")

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        name = "intel-extension-for-tensorflow"
        return super().versions() | {name: version(name)}

    def threads(self) -> int:
        """Return the threads of the OpenMP runtime if the extension uses one, otherwise those of TensorFlow."""
        runtimes = _loaded("/libiomp5")
        return int(ctypes.CDLL(str(runtimes[0])).omp_get_max_threads()) if runtimes else super().threads()

    def observe(self, run: Callable[[], Any]) -> tuple[set[onednn.Kernel], dict[str, str]]:
        """Return what the extension's own oneDNN reports during a run: nothing if it is not called."""
        libraries = [ctypes.CDLL(str(path)) for path in _loaded(ONEDNN_LIBRARY)]
        with onednn.standard_output() as lines:
            for library in libraries:
                library.dnnl_set_verbose(1)
            run()
            for library in libraries:
                library.dnnl_set_verbose(0)
            ctypes.CDLL(None).fflush(None)
        return onednn.kernels(lines), onednn.information(lines)


def _loaded(name: str) -> list[Path]:
    """Return the libraries with this name that the process has loaded."""
    paths = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(Path(path.strip()) for path in paths if name in path)


def open_backend(threads: int) -> Itex:
    return Itex(threads)
