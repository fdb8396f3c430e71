"""OpenVINO: IR files, converted from the PyTorch or the TensorFlow model, run by the CPU plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from backends.builders import FLOATS, builder_for, variants_of
from backends.protocol import (
    F32,
    PRECISIONS,
    InferenceSpec,
    Proof,
    ProofError,
    Session,
    Stack,
    UnsupportedError,
    Variant,
)

if TYPE_CHECKING:
    from pathlib import Path

    from models.spec import Network
    from models.weights import Weights

IR = "model.xml"
# The path in the IR's runtime information where we store the digest of the network's specification.
DIGEST_KEYS = ("spec", "network")
PYTORCH, TENSORFLOW = "pytorch", "tensorflow"


@dataclass(frozen=True)
class Configuration:
    """How a variant compiles and calls the IR.

    `share_inputs` lets the request read the caller's array instead of a copy. Without `hint_precision` OpenVINO chooses
    the precision itself.
    """

    variant: Variant
    properties: Mapping[str, str] = field(default_factory=dict)
    share_inputs: bool = True
    hint_precision: bool = True


LATENCY, THROUGHPUT = {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}
CONFIGURATIONS = {
    "latency": Configuration(
        Variant("One stream, latency hint, input shared with the caller: the main use", PRECISIONS, conversion=PYTORCH),
        LATENCY,
    ),
    "copy": Configuration(
        Variant("As latency, with the input copied: the default of infer()", conversion=PYTORCH),
        LATENCY,
        share_inputs=False,
    ),
    "default": Configuration(
        Variant("No hints at all: bf16 where the CPU has it, so it is compared there", FLOATS, conversion=PYTORCH),
        hint_precision=False,
    ),
    "tf": Configuration(
        Variant("As latency, with the IR converted from the TensorFlow model", conversion=TENSORFLOW), LATENCY
    ),
    "throughput": Configuration(
        Variant(
            "Throughput hint, an asynchronous queue of as many batches as streams",
            PRECISIONS,
            asynchronous=True,
            conversion=PYTORCH,
        ),
        THROUGHPUT,
    ),
}

STACK = Stack(
    name="openvino",
    summary="OpenVINO IR on the CPU plugin, converted from the other stacks' models",
    environment="openvino",
    packages=("openvino", "nncf", "torch", "tensorflow"),
    variants=variants_of(CONFIGURATIONS),
    default_variant="latency",
    modules=("openvino",),
    baselines=("pytorch", "tensorflow"),
    intel=True,
    needs=("avx2",),
    binds_threads=True,
    writes=(".xml",),
)

# For int8 the hint applies to the layers that quantisation left out.
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
HEAVY = ("Convolution", "FullyConnected", "MatMul")
RUNTIME_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "u8": "int8", "i8": "int8"}


class OpenVINOSession:
    def __init__(self, threads: int, spec: InferenceSpec) -> None:
        import openvino as ov

        configuration = builder_for(CONFIGURATIONS, spec)
        variant = configuration.variant
        self._is_nhwc, self._files = variant.conversion == TENSORFLOW, spec.files
        model = read_ir(ov.Core(), spec)
        properties = {"INFERENCE_NUM_THREADS": str(threads), **configuration.properties}
        if variant.asynchronous:
            properties["NUM_STREAMS"] = str(spec.streams)
        if configuration.hint_precision:
            properties["INFERENCE_PRECISION_HINT"] = PRECISION_HINTS[spec.precision]
        self._compiled = ov.Core().compile_model(model, "CPU", properties)
        if not configuration.hint_precision and (default := self._effective_precision()) != spec.precision:
            raise UnsupportedError(f"by default OpenVINO runs {spec.precision} models in {default} on this CPU")
        self._request, self._share_inputs = self._compiled.create_infer_request(), configuration.share_inputs
        self._queue: Any = None
        if variant.asynchronous:
            self._queue = ov.AsyncInferQueue(self._compiled, spec.streams)
            self._queue.set_callback(_copy_logits)

    def prepare(self, images: F32) -> F32:
        return np.array(images if self._is_nhwc else images.transpose(0, 3, 1, 2), order="C")

    def step(self, batch: F32) -> F32:
        """Return the logits, copied out of the request."""
        logits: F32 = self._request.infer({0: batch}, share_inputs=self._share_inputs)[0]
        return logits

    def submit(self, batch: F32, done: Callable[[], None] | None = None) -> None:
        self._queue.start_async({0: batch}, userdata=done, share_inputs=self._share_inputs)

    def drain(self) -> None:
        self._queue.wait_all()

    def to_numpy(self, logits: F32) -> F32:
        return logits

    def prove(self, batch: F32) -> Proof:
        """Read back the kernels and properties of the compiled model.

        Raises ProofError when the queue and a single request return different logits, or when the model was compiled
        for another number of streams than the queue has requests.
        """
        logits = self.step(batch)
        if self._queue is not None and not all(np.array_equal(array, logits) for array in self._queue_logits(batch)):
            raise ProofError("the queue and a single request return different logits")
        kernels = sorted({f"{kind} {name} {precision}" for kind, name, precision in self._nodes()})
        names = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT")
        properties = {name: self._property(name) for name in names}
        if self._queue is not None and int(properties["NUM_STREAMS"]) != len(self._queue):
            raise ProofError(f"NUM_STREAMS read back as {properties['NUM_STREAMS']}, asked for {len(self._queue)}")
        threads = int(self._property("INFERENCE_NUM_THREADS"))
        return Proof(self._effective_precision(), threads, tuple(kernels), _versions() | properties)

    def _queue_logits(self, batch: F32) -> list[F32]:
        """Return the queue's logits of a batch, twice from every request on average."""
        logits: list[F32] = []
        self._queue.set_callback(lambda request, _: logits.append(request.get_output_tensor(0).data.copy()))
        for _ in range(2 * len(self._queue)):
            self.submit(batch)
        self.drain()
        self._queue.set_callback(_copy_logits)
        return logits

    def _property(self, name: str) -> str:
        value = self._compiled.get_property(name)
        return str(getattr(value, "name", None) or (value.to_string() if hasattr(value, "to_string") else value))

    def _nodes(self) -> list[tuple[str, str, str]]:
        """Return (type, kernel, precision) of each node of the compiled model."""
        nodes = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ordered_ops()]
        return [
            (str(node["layerType"].value), str(node["primitiveType"].value), str(node["runtimePrecision"].value))
            for node in nodes
        ]

    def _effective_precision(self) -> str:
        names = {RUNTIME_PRECISIONS.get(name, name) for kind, _, name in self._nodes() if kind in HEAVY}
        if not names:
            raise ProofError("no node of the compiled model multiplies")
        return "+".join(sorted(names))

    def save(self, folder: Path) -> None:
        import openvino as ov

        _save(ov.Core().read_model(_ir_file(self._files)), folder / IR)


def _copy_logits(request: Any, done: Callable[[], None] | None) -> None:
    """Copy the logits out of a request, because every other arm has them in memory of its own."""
    request.get_output_tensor(0).data.copy()
    if done:
        done()


def _versions() -> dict[str, str]:
    import openvino as ov

    return {"openvino": ov.__version__}


def _save(model: Any, path: Path) -> None:
    """Write an IR, uncompressed: by default the weights would be rounded to half precision, which no hint undoes."""
    import openvino as ov

    ov.save_model(model, path, compress_to_fp16=False)


def _ir_file(files: Path | None) -> Path:
    if files is None or not (files / IR).is_file():
        raise ProofError("there is no IR to start from")
    return files / IR


def read_ir(core: Any, spec: InferenceSpec) -> Any:
    """Read the IR and fix its batch size; raise ProofError when it was made from another network."""
    model = core.read_model(_ir_file(spec.files))
    try:
        digest = str(model.get_rt_info(list(DIGEST_KEYS)).value)
    except RuntimeError:
        digest = "unknown"
    if digest != spec.network.digest:
        raise ProofError(f"the IR is of another network: digest {digest[:12]}, not {spec.network.digest[:12]}")
    model.reshape([spec.batch_size, *list(model.inputs[0].get_partial_shape())[1:]])
    return model


class OpenVINO:
    def __init__(self, threads: int) -> None:
        disable_telemetry()
        import openvino  # noqa: F401

        self._threads = threads

    def inference(self, spec: InferenceSpec) -> Session:
        return OpenVINOSession(self._threads, spec)


def disable_telemetry() -> None:
    """Prevent OpenVINO and NNCF from reporting to their makers from a thread and a process of their own.

    Telemetry is not part of what is measured, and imports in its thread can deadlock with those of the frameworks. Both
    run without the package where it is not installed.
    """
    # With None in sys.modules, importing it raises ImportError.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]


def open_backend(threads: int) -> OpenVINO:
    return OpenVINO(threads)


def convert(conversion: str, spec: InferenceSpec, folder: Path) -> None:
    """Write the IR of the PyTorch or the TensorFlow model, for any batch size.

    For int8 NNCF quantises it, with the ranges that its layers have on the calibration images.
    """
    disable_telemetry()
    model, to_input = CONVERSIONS[conversion](spec.network, spec.weights)
    if spec.precision == "int8":
        import nncf

        images = [to_input(image[None]) for image in spec.calibration]
        model = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
    model.set_rt_info(spec.network.digest, list(DIGEST_KEYS))
    _save(model, folder / IR)


def write_model(path: Path, network: Network, weights: Weights) -> None:
    """Write the IR of the PyTorch model: `path`, and the weights in a .bin file of the same name."""
    disable_telemetry()
    model, _ = from_pytorch(network, weights)
    model.set_rt_info(network.digest, list(DIGEST_KEYS))
    _save(model, path)


# A converted model, and the function that turns a neutral batch into its input.
Converted: TypeAlias = tuple[Any, Callable[[F32], F32]]


def from_pytorch(network: Network, weights: Weights) -> Converted:
    import openvino as ov
    import torch

    from backends.pytorch.layers import build_module

    height, width, channels = network.input_shape
    module = build_module(network, weights).eval()
    example = torch.zeros(1, channels, height, width)
    model = ov.convert_model(module, example_input=example, input=[-1, channels, height, width])
    return model, lambda image: np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def from_tensorflow(network: Network, weights: Weights) -> Converted:
    import openvino as ov

    from backends.tensorflow.layers import build_model

    model = build_model(network, weights)
    return ov.convert_model(model, input=[-1, *network.input_shape]), lambda image: image


CONVERSIONS = {PYTORCH: from_pytorch, TENSORFLOW: from_tensorflow}
