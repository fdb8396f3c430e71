"""TensorFlow as inference and training use it: the hooks that derived stacks replace, and what can be read back."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import onednn
from backends.builders import require_evidence
from backends.protocol import Proof

if TYPE_CHECKING:
    from collections.abc import Callable

# In a trace: "dense1/MatMul:_MklMatMul", "_MklNativeConv2D" for an operator that runs outside a graph, "Hlo Proto" for
# a program of XLA.
OPERATOR = re.compile(rb"(?<=[\w.]:)_*[A-Z]\w+|(?<!\w)_[A-Z]\w+|(?<=Execute: )[A-Z]\w+|Hlo Proto")
NO_OPERATORS = {"CPU"}
HEAVY = ("Conv2D", "MatMul")
PRECISIONS = {"float32": "fp32", "bfloat16": "bf16"}
ONEDNN = ("_Mkl",)


class Framework:
    """The imported framework, with the hooks that derived stacks replace."""

    def __init__(self, threads: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)

    def threads(self) -> int:
        """Return the number of threads that one operator uses."""
        import tensorflow as tf

        threads: int = tf.config.threading.get_intra_op_parallelism_threads()
        return threads

    def versions(self) -> dict[str, str]:
        import tensorflow as tf

        return {"tensorflow": tf.__version__}

    def observe(self, run: Callable[[], Any]) -> tuple[set[onednn.Kernel], dict[str, str]]:
        """Return oneDNN's kernels and versions during a run; stock TensorFlow exposes none."""
        return set(), {}

    def prove(
        self,
        run: Callable[[], Any],
        evidence: tuple[str, ...],
        absent: tuple[str, ...],
        graph_precision: Callable[[], str],
    ) -> Proof:
        """Run under the profiler and read back what ran.

        The precision is that of oneDNN's kernels, or that of the graph where they are not exposed. Raises ProofError
        unless an operator with a prefix in `evidence` ran, and none with a prefix in `absent`.
        """
        ran = tuple(sorted(operators(run)))
        require_evidence(ran, evidence, absent)
        kernels, versions = self.observe(run)
        return Proof(
            onednn.precision(kernels) or graph_precision(),
            self.threads(),
            (*ran, *sorted(map(str, kernels))),
            self.versions() | versions,
        )


def operators(run: Callable[[], Any]) -> set[str]:
    """Return the operators that ran, by the names under which TensorFlow registers them."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        run()
        tf.profiler.experimental.stop()
        traces = [path.read_bytes() for path in Path(folder).rglob("*.xplane.pb")]
    return {name.decode() for trace in traces for name in OPERATOR.findall(trace)} - NO_OPERATORS


def precision_of(graph: Any) -> str:
    types = {operation.outputs[0].dtype.name for operation in graph.get_operations() if operation.type in HEAVY}
    return "+".join(sorted(PRECISIONS.get(name, name) for name in types))
