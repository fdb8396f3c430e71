"""ONNX Runtime on its CPU provider: an ONNX graph with the weights and the layout of the PyTorch model."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import (
    F32,
    InferenceSpec,
    Proof,
    ProofError,
    Session,
    Stack,
    UnsupportedError,
    Variant,
)
from models.formats.layouts import to_pytorch
from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, ReLU

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.spec import Network, PlacedLayer
    from models.weights import Weights

MODEL, INPUT, OUTPUT, BATCH = "model.onnx", "images", "logits", "batch"
# The key of the model's metadata where we store the digest of the network's specification.
DIGEST_KEY = "cnn-stack-bench.network"
# Of the ONNX standard; ONNX Runtime reads all older ones too.
OPSET, IR_VERSION = 17, 8
VARIANTS = {
    "session": Variant(
        "One session with all graph optimisations, called with NumPy arrays: the main use",
        ("fp32", "int8"),
        conversion="graph",
    )
}

STACK = Stack(
    name="onnxruntime",
    summary="ONNX Runtime on its CPU provider, with an ONNX graph of the PyTorch model",
    environment="onnxruntime",
    packages=("onnxruntime", "onnx"),
    variants=VARIANTS,
    default_variant="session",
    modules=("onnxruntime",),
    baselines=("pytorch",),
    binds_threads=True,
    writes=(".onnx",),
)

# Operators that multiply contain one of these names, whatever was fused into them. ReorderInput and others do not.
HEAVY = ("Conv", "Gemm", "MatMul")
PRECISIONS = {"float": "fp32", "float16": "fp16", "uint8": "int8", "int8": "int8"}


def disable_telemetry() -> None:
    """Prevent ONNX Runtime from reporting to its makers, which from 1.29 on it does on Linux by default.

    It reads this variable once, when its library is loaded.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


class OnnxRuntimeSession:
    def __init__(self, cores: Sequence[int] | None, threads: int, spec: InferenceSpec) -> None:
        if spec.variant not in VARIANTS or spec.precision not in VARIANTS[spec.variant].precisions:
            raise UnsupportedError(f"no variant {spec.variant} at {spec.precision}")
        self._file, self._cores, self._asked = model_file(spec.files), cores, threads
        before = _thread_ids()
        self._session = self._open(profile=None)
        self._pool = sorted(_thread_ids() - before)
        if cores:
            os.sched_setaffinity(0, cores[:1])
        digest = self._session.get_modelmeta().custom_metadata_map.get(DIGEST_KEY, "unknown")
        if digest != spec.network.digest:
            raise ProofError(
                f"the ONNX model is of another network: digest {digest[:12]}, not {spec.network.digest[:12]}"
            )

    def _open(self, profile: Path | None) -> Any:
        """Return a session with the options of all sessions; with `profile`, it records what it runs."""
        disable_telemetry()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._asked, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        for name, value in session_settings(self._cores).items():
            options.add_session_config_entry(name, value)
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        return onnxruntime.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])

    def prepare(self, images: F32) -> F32:
        return np.array(images.transpose(0, 3, 1, 2), order="C")

    def step(self, batch: F32) -> F32:
        """Return the logits; the session reads the caller's array, and allocates the one that it returns."""
        logits: F32 = self._session.run([OUTPUT], {INPUT: batch})[0]
        return logits

    def to_numpy(self, logits: F32) -> F32:
        return logits

    def prove(self, batch: F32) -> Proof:
        """Profile a second session with the same options, and read back the threads of the one that is timed.

        Raises ProofError when the two sessions return different logits, when the session has another number of threads
        than its options say, or when its threads are not bound to the cores that they were given.
        """
        with tempfile.TemporaryDirectory(dir=".") as folder:
            profiled = self._open(Path(folder, "profile"))
            logits = profiled.run([OUTPUT], {INPUT: batch})[0]
            events = json.loads(Path(profiled.end_profiling()).read_text())
        if not np.array_equal(logits, self.step(batch)):
            raise ProofError("the profiled session and the timed one return different logits")
        kernels = executed_kernels(events)
        precisions = {precision for operator, _, precision in kernels if any(name in operator for name in HEAVY)}
        if not precisions:
            raise ProofError("no operator that multiplies ran")
        threads = 1 + len(self._pool)
        if (option := self._session.get_session_options().intra_op_num_threads) != threads:
            raise ProofError(f"intra_op_num_threads reads back as {option}, but the session has {threads} threads")
        bound = [sorted(os.sched_getaffinity(thread)) for thread in (0, *self._pool)]
        if self._cores and bound != [[core] for core in self._cores]:
            raise ProofError(f"threads were to be bound to the cores {self._cores}, but may use {bound}")
        return Proof(
            "+".join(sorted(precisions)),
            threads,
            tuple(sorted({" ".join(kernel) for kernel in kernels})),
            _versions() | session_settings(self._cores) | {"providers": ", ".join(self._session.get_providers())},
        )

    def save(self, folder: Path) -> None:
        shutil.copy(self._file, folder / MODEL)


def session_settings(cores: Sequence[int] | None) -> dict[str, str]:
    """Return the entries of a session's configuration; its pool's threads are bound to all `cores` but the first.

    Threads stop spinning 1 ms after their work, as those of the OpenMP runtimes do: by default they would use the cores
    during the slices of other arms.
    """
    spin = {"session.intra_op.spin_duration_us": "1000"}
    # Numbers of cores start at 1 here.
    places = {"session.intra_op_thread_affinities": ";".join(str(core + 1) for core in (cores or ())[1:])}
    return spin | (places if cores and len(cores) > 1 else {})


def executed_kernels(events: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Return (operator, provider, precision) of each node that a profile recorded."""
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "op_name" in event.get("args", {})]
    return {
        (node["op_name"], node["provider"], PRECISIONS.get(kind, kind))
        for node in nodes
        for kind in [next(iter(node["input_type_shape"][0]), "") if node.get("input_type_shape") else ""]
    }


def _thread_ids() -> set[int]:
    return {int(folder.name) for folder in Path("/proc/self/task").iterdir()}


def _versions() -> dict[str, str]:
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__}


def model_file(files: Path | None) -> Path:
    if files is None or not (files / MODEL).is_file():
        raise ProofError("there is no ONNX model to start from")
    return files / MODEL


class OnnxRuntime:
    def __init__(self, threads: int) -> None:
        disable_telemetry()
        import onnxruntime  # noqa: F401

        self._threads = threads
        # ONNX Runtime does not read OpenMP's variables, by which the harness asks for binding. The cores are noted
        # here, before a session binds the calling thread to one of them.
        cores = sorted(os.sched_getaffinity(0))[:threads]
        self._cores = cores if os.environ.get("OMP_PROC_BIND") and len(cores) == threads else None

    def inference(self, spec: InferenceSpec) -> Session:
        return OnnxRuntimeSession(self._cores, self._threads, spec)


def open_backend(threads: int) -> OnnxRuntime:
    return OnnxRuntime(threads)


def convert(conversion: str, spec: InferenceSpec, folder: Path) -> None:
    """Write the ONNX model, for any batch size.

    For int8 ONNX Runtime quantises it, with the ranges that its tensors have on the calibration images.
    """
    disable_telemetry()
    import onnx

    model = build_model(spec.network, spec.weights)
    if spec.precision == "int8":
        images = np.ascontiguousarray(spec.calibration.transpose(0, 3, 1, 2))
        model = _quantise(model, images)
    onnx.save(model, folder / MODEL)


def write_model(path: Path, network: Network, weights: Weights) -> None:
    import onnx

    onnx.save(build_model(network, weights), path)


def _quantise(model: Any, images: F32) -> Any:
    """Return a model with QuantizeLinear and DequantizeLinear around its operators, except batch normalisation.

    Batch normalisation is merged into the convolution right before it, or stays in fp32.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quant_pre_process,
        quantize_static,
    )

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, F32]] = iter([{INPUT: image[None]} for image in images])

        def get_next(self) -> dict[str, F32] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        quant_pre_process(model, folder / "merged.onnx", skip_symbolic_shape=True)
        quantize_static(
            folder / "merged.onnx",
            folder / MODEL,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "MaxPool", "Flatten", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantised = onnx.load(folder / MODEL)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    return quantised


def build_model(network: Network, weights: Weights) -> Any:
    """Return the ONNX model of a network, with weights in PyTorch's layout."""
    from onnx import TensorProto, checker, helper, numpy_helper

    parameters = [numpy_helper.from_array(to_pytorch(network, name, array), name) for name, array in weights.items()]
    placed = [layer for layer in network.place() if not isinstance(layer.layer, Dropout)]
    names = [INPUT, *(layer.name for layer in placed[:-1]), OUTPUT]
    nodes = [_node(layer, source, target) for layer, source, target in zip(placed, names[:-1], names[1:], strict=True)]
    height, width, channels = network.input_shape
    images = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH, channels, height, width])
    logits = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [BATCH, *placed[-1].output_shape])
    graph = helper.make_graph(nodes, network.name, [images], [logits], parameters)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, {DIGEST_KEY: network.digest})
    checker.check_model(model, full_check=True)
    return model


def _node(placed: PlacedLayer, source: str, target: str) -> Any:
    from onnx import helper

    inputs, attributes = [source, *placed.parameter_shapes], dict[str, Any]()
    match placed.layer:
        case Conv2d(_, size):
            before = (size - 1) // 2
            operator, attributes = "Conv", {"kernel_shape": [size] * 2, "pads": [before] * 2 + [size - 1 - before] * 2}
        case ReLU():
            operator = "Relu"
        case BatchNorm(epsilon):
            operator, attributes = "BatchNormalization", {"epsilon": epsilon}
        case MaxPool2d(size):
            operator, attributes = "MaxPool", {"kernel_shape": [size] * 2, "strides": [size] * 2}
        case Flatten():
            operator = "Flatten"
        case Dense():
            operator, attributes = "Gemm", {"transB": 1}
        case _:
            raise UnsupportedError(f"{placed.kind} has no ONNX operator")
    return helper.make_node(operator, inputs, [target], placed.name, **attributes)
