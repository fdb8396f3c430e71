"""OpenVINO: IR files converted from the PyTorch or the TensorFlow model, run by the CPU plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

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
    way_of,
)

if TYPE_CHECKING:
    from pathlib import Path


IR = "model.xml"
DIGEST_KEYS = ("spec", "network")  # under which the IR holds the digest of the network's specification
Config: TypeAlias = "dict[str, str]"


@dataclass(frozen=True)
class Way:
    """One set of properties, at which precisions, and from which IR."""

    summary: str
    properties: Mapping[str, str] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    source: str = "pytorch"
    shared: bool = True
    asynchronous: bool = False
    says_precision: bool = True

    @property
    def variant(self) -> Variant:
        """Return what the stack says of it."""
        return Variant(self.summary, self.precisions, asynchronous=self.asynchronous, conversion=self.source)


LATENCY, THROUGHPUT = {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "THROUGHPUT"}
WAYS = {
    "latency": Way("One stream, latency hint, input shared with the caller: the main use", LATENCY),
    "copy": Way("As latency, with the input copied: what infer() does by itself", LATENCY, ("fp32",), shared=False),
    "default": Way(
        "No hints at all: bf16 where the CPU has it, so that it is compared there",
        precisions=("fp32", "bf16"),
        says_precision=False,
    ),
    "tf": Way("As latency, with the IR converted from the TensorFlow model", LATENCY, ("fp32",), "tensorflow"),
    "throughput": Way("Throughput hint, one stream a core, asynchronous queue", THROUGHPUT, asynchronous=True),
}

STACK = Stack(
    name="openvino",
    summary="OpenVINO IR on the CPU plugin, converted from the other stacks' models",
    environment="openvino",
    packages=("openvino", "nncf", "torch", "tensorflow"),
    variants={name: way.variant for name, way in WAYS.items()},
    modules=("openvino",),
    baselines=("pytorch", "tensorflow"),
    needs=("avx2",),
)

# int8 says how the layers run that quantisation left out.
PRECISION_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
HEAVY = ("Convolution", "FullyConnected", "MatMul")
PRECISIONS = {"f32": "fp32", "bf16": "bf16", "u8": "int8", "i8": "int8"}


class OpenVINOSession:
    """An IR compiled for one batch size."""

    def __init__(self, threads: int, deployment: InferenceSpec) -> None:
        import openvino as ov

        way = way_of(WAYS, deployment)
        self._source, self._network, self._files = way.source, deployment.network, deployment.files
        model = read_ir(ov.Core(), deployment)
        streams = {"NUM_STREAMS": str(threads)} if way.asynchronous else {}
        hint = {"INFERENCE_PRECISION_HINT": PRECISION_HINTS[deployment.precision]} if way.says_precision else {}
        properties = {"INFERENCE_NUM_THREADS": str(threads), **way.properties, **streams, **hint}
        self._compiled = ov.Core().compile_model(model, "CPU", properties)
        if not way.says_precision and (runs := self._effective_precision()) != deployment.precision:
            raise UnsupportedError(f"by default OpenVINO runs {deployment.precision} models in {runs} on this CPU")
        self._request, self._shared = self._compiled.create_infer_request(), way.shared
        self._queue: Any = None
        if way.asynchronous:
            self._queue = ov.AsyncInferQueue(self._compiled, threads)
            self._queue.set_callback(_materialise)

    def prepare(self, images: F32) -> F32:
        """Copy an NHWC batch into an array in the layout of the IR's source."""
        return np.array(images if self._source == "tensorflow" else images.transpose(0, 3, 1, 2), order="C")

    def step(self, batch: F32) -> F32:
        """Return the logits, copied out of the request."""
        logits: F32 = self._request.infer({0: batch}, share_inputs=self._shared)[0]
        return logits

    def submit(self, batch: F32) -> None:
        """Hand the batch to a request that is free; wait for one."""
        self._queue.start_async({0: batch}, share_inputs=self._shared)

    def drain(self) -> None:
        """Wait for all requests."""
        self._queue.wait_all()

    def to_numpy(self, logits: F32) -> F32:
        """Return the logits as they are."""
        return logits

    def prove(self, batch: F32) -> Proof:
        """Read back which kernels the compiled model is made of, and its properties.

        Raises ProofError when the queue's answers are not those of a single request.
        """
        logits = self.step(batch)
        if self._queue is not None and not all(np.array_equal(each, logits) for each in self._answers(batch)):
            raise ProofError("the queue answers otherwise than a single request")
        kernels = sorted({f"{kind} {name} {precision}" for kind, name, precision in self._nodes()})
        asked = ("PERFORMANCE_HINT", "NUM_STREAMS", "INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT")
        properties = {name: self._property(name) for name in asked}
        threads = int(self._property("INFERENCE_NUM_THREADS"))
        return Proof(self._effective_precision(), threads, tuple(kernels), _versions() | properties)

    def _answers(self, batch: F32) -> list[F32]:
        """Return what the queue answers to a batch, twice as many times as it has requests."""
        answers: list[F32] = []
        self._queue.set_callback(lambda request, _: answers.append(request.get_output_tensor(0).data.copy()))
        for _ in range(2 * len(self._queue)):
            self.submit(batch)
        self.drain()
        self._queue.set_callback(_materialise)
        return answers

    def _property(self, name: str) -> str:
        value = self._compiled.get_property(name)
        return str(getattr(value, "name", None) or (value.to_string() if hasattr(value, "to_string") else value))

    def _nodes(self) -> list[tuple[str, str, str]]:
        """Return (type, kernel, precision) of each node that was compiled."""
        information = [node.get_rt_info() for node in self._compiled.get_runtime_model().get_ordered_ops()]
        keys = ("layerType", "primitiveType", "runtimePrecision")
        return [(str(each[keys[0]].value), str(each[keys[1]].value), str(each[keys[2]].value)) for each in information]

    def _effective_precision(self) -> str:
        """Return the precision of what multiplies."""
        found = {PRECISIONS.get(precision, precision) for kind, _, precision in self._nodes() if kind in HEAVY}
        if not found:
            raise ProofError("the compiled model multiplies nothing")
        return "+".join(sorted(found))

    def save(self, folder: Path) -> None:
        """Write the IR."""
        import openvino as ov

        ov.save_model(ov.Core().read_model(_ir_file(self._files)), folder / IR, compress_to_fp16=False)


def _materialise(request: Any, _: Any) -> None:
    """Copy the logits out of a request, as every other arm has them in memory of its own."""
    request.get_output_tensor(0).data.copy()


def _versions() -> dict[str, str]:
    import openvino as ov

    return {"openvino": ov.__version__}


def _ir_file(files: Path | None) -> Path:
    if files is None or not (files / IR).is_file():
        raise ProofError("there is no IR to start from")
    return files / IR


def read_ir(core: Any, deployment: InferenceSpec) -> Any:
    """Read the IR and fix its batch size.

    Raises ProofError when it is of another network than the deployment's.
    """
    model = core.read_model(_ir_file(deployment.files))
    try:
        digest = str(model.get_rt_info(list(DIGEST_KEYS)).value)
    except RuntimeError:
        digest = "unknown"
    if digest != deployment.network.digest:
        raise ProofError(f"the IR is of another network: digest {digest[:12]}, not {deployment.network.digest[:12]}")
    model.reshape([deployment.batch_size, *list(model.inputs[0].get_partial_shape())[1:]])
    return model


class OpenVINO:
    """The runtime."""

    def __init__(self, threads: int) -> None:
        without_telemetry()
        import openvino  # noqa: F401 - importing it is what opening means

        self._threads = threads

    def inference(self, deployment: InferenceSpec) -> Session:
        """Build a session."""
        return OpenVINOSession(self._threads, deployment)


def without_telemetry() -> None:
    """Keep OpenVINO and NNCF from reporting to their makers, which they do from a thread and a process of their own.

    It is no part of what is measured, and imports in that thread can lock against the frameworks' for ever. Both do
    without the package where it is not installed.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # importing it raises ImportError


def open_backend(threads: int) -> OpenVINO:
    """Import OpenVINO."""
    return OpenVINO(threads)


def convert(conversion: str, deployment: InferenceSpec, folder: Path) -> None:
    """Write the IR of the PyTorch or of the TensorFlow model, uncompressed, for any batch size.

    For int8 it is quantised by NNCF, with the ranges that its layers have on the calibration images.
    """
    without_telemetry()
    import openvino as ov

    model, to_input = CONVERSIONS[conversion](deployment)
    if deployment.precision == "int8":
        model = _quantised(model, [to_input(image[None]) for image in deployment.calibration])
    model.set_rt_info(deployment.network.digest, list(DIGEST_KEYS))
    # By default the weights would be rounded to half precision, which no hint undoes.
    ov.save_model(model, folder / IR, compress_to_fp16=False)


Converted: TypeAlias = tuple[Any, Callable[[F32], F32]]


def from_pytorch(deployment: InferenceSpec) -> Converted:
    """Convert the torch.nn module."""
    import openvino as ov
    import torch

    from backends.pytorch_modules import build_module

    height, width, channels = deployment.network.input_shape
    module = build_module(deployment.network, deployment.weights).eval()
    example = torch.zeros(1, channels, height, width)
    model = ov.convert_model(module, example_input=example, input=[-1, channels, height, width])
    return model, lambda image: np.ascontiguousarray(image.transpose(0, 3, 1, 2))


def from_tensorflow(deployment: InferenceSpec) -> Converted:
    """Convert the Keras model."""
    import openvino as ov

    from backends.tensorflow_models import build_model

    model = build_model(deployment.network, deployment.weights)
    return ov.convert_model(model, input=[-1, *deployment.network.input_shape]), lambda image: image


CONVERSIONS: dict[str, Callable[[InferenceSpec], Converted]] = {"pytorch": from_pytorch, "tensorflow": from_tensorflow}


def _quantised(model: Any, images: list[F32]) -> Any:
    import nncf

    return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images))
