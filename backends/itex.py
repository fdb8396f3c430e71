"""TensorFlow with the Intel extension, which registers itself when TensorFlow is imported."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import onednn
from backends.protocol import Stack, UnsupportedError, variants_of
from backends.tensorflow import ONEDNN, TensorFlow, Way, frozen, graph
from backends.tensorflow_training import TrainingWay, step

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.protocol import InferenceSpec, Session, Training, TrainingSpec


def extended_graph(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call a tf.function of fixed shape, rewritten by the extension."""
    return graph(model, signature)


def extended_frozen(model: Callable[[Any], Any], signature: Any) -> Any:
    """Call a tf.function whose weights are constants of its graph, rewritten by the extension: its best."""
    return frozen(model, signature)


def eigen(model: Callable[[Any], Any], signature: Any) -> Any:
    """As frozen, on TensorFlow's own threads instead of OpenMP's."""
    return frozen(model, signature)


def off(model: Callable[[Any], Any], signature: Any) -> Any:
    """As tensorflow/graph, the extension installed but switched off: the control, which must show no difference."""
    return graph(model, signature)


EXTENSION = ("_ITEX",)
ONEDNN_LIBRARY = "/libonednn_cpu"
WAYS = {
    "graph": Way(extended_graph, EXTENSION),
    "frozen": Way(extended_frozen, EXTENSION),
    "eigen": Way(eigen, EXTENSION, precisions=("fp32",), settings={"ITEX_OMP_THREADPOOL": "0"}),
    "off": Way(off, ONEDNN, absent=EXTENSION, precisions=("fp32",)),
}


def extended_step(take_step: Any) -> Any:
    """Train in steps that are each one compiled tf.function, rewritten by the extension."""
    return step(take_step)


TRAININGS = {"train": TrainingWay(extended_step, EXTENSION)}

STACK = Stack(
    name="itex",
    summary="TensorFlow with the Intel extension (no longer maintained; last release 2.15)",
    environment="itex",
    packages=("tensorflow", "intel-extension-for-tensorflow", "intel-extension-for-tensorflow-lib"),
    variants=variants_of(WAYS, TRAININGS),
    modules=("tensorflow",),
    baselines=("tensorflow",),
    needs=("avx2",),
)


class Itex(TensorFlow):
    """TensorFlow, extended."""

    ways = WAYS
    trainings = TRAININGS

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build a session; the extension works, or does not, on all that the process builds."""
        import tensorflow as tf

        _require_extension()
        if deployment.variant == "off":
            tf.config.optimizer.set_experimental_options({"use_plugin_optimizers": False})
        return super().inference(deployment)

    def training(self, course: TrainingSpec) -> Training:
        """Build a training."""
        _require_extension()
        return super().training(course)

    def versions(self) -> dict[str, str]:
        """Return the versions."""
        from importlib.metadata import version

        name = "intel-extension-for-tensorflow"
        return super().versions() | {name: version(name)}

    def threads(self) -> int:
        """Return the threads of the OpenMP runtime where the extension has one, else those of TensorFlow."""
        runtimes = _loaded("/libiomp5")
        return int(ctypes.CDLL(str(runtimes[0])).omp_get_max_threads()) if runtimes else super().threads()

    def observe(self, run: Callable[[], Any]) -> tuple[set[onednn.Kernel], dict[str, str]]:
        """Listen to the extension's own oneDNN; where it is not asked there is nothing to hear."""
        libraries = [ctypes.CDLL(str(path)) for path in _loaded(ONEDNN_LIBRARY)]
        with onednn.standard_output() as lines:
            for library in libraries:
                library.dnnl_set_verbose(1)
            run()
            for library in libraries:
                library.dnnl_set_verbose(0)
            ctypes.CDLL(None).fflush(None)
        return onednn.kernels(lines), onednn.information(lines)


def _require_extension() -> None:
    """Raise UnsupportedError where TensorFlow would run without it."""
    if not _loaded(ONEDNN_LIBRARY):
        raise UnsupportedError("the extension's library is not loaded: TensorFlow would run without it")


def _loaded(name: str) -> list[Path]:
    """Return the libraries of this name that the process has loaded."""
    paths = {line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    return sorted(Path(path.strip()) for path in paths if name in path)


def open_backend(threads: int) -> Itex:
    """Import TensorFlow, which loads the extension, and set its threads."""
    return Itex(threads)
