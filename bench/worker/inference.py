"""Inference, conversion of model files, and the limits of the machine."""

from __future__ import annotations

import gc
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from backends.protocol import InferenceSpec
from backends.registry import convert, open_backend, open_product, read_contents, stacks, write_model
from bench.clock import now_ns
from bench.worker import messages
from bench.worker.load_workers import answer_load, run_load_by_workers
from bench.worker.loadgen import Served, run_load
from bench.worker.process import (
    NotReadyError,
    allowed_cores,
    involuntary_switches,
    limit_memory,
    peak_memory_bytes,
    pin_to_cores,
    require_no_other_framework,
    require_preloaded,
    unbound,
)
from bench.worker.timing import delayed, time_pipeline, time_slice
from models.data import standardise
from models.formats.keras import open_keras
from models.formats.kind import SAFETENSORS, kind_of, largest_file_bytes
from models.formats.read import interpret
from models.formats.tensors import read_tensors
from models.weights import load_weights, save_weights, standardised_as_in
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from backends.protocol import AsynchronousSession, Backend, Session
    from models.spec import Network
    from models.synthetic import U8

# Every timed call gets another input batch, out of a pool of about one core's share of a last-level cache.
POOL_BYTES, MIN_POOL, MAX_POOL = 8 << 20, 2, 256
# The memory for reading a model file: a framework's import, and copies of the largest file.
IMPORT_BYTES, COPIES = 1 << 30, 4


@dataclass(frozen=True)
class OpenBackend:
    """The framework that this process has imported."""

    stack: str
    backend: Backend
    import_ns: int


@dataclass(frozen=True)
class ImageBatches:
    """The test images, (count, 28, 28) uint8, as neutral batches of a network."""

    network: Network
    images: U8
    size: int

    def starting_at(self, start: int) -> NDArray[np.float32]:
        """Return a full batch; the last image is followed by the first one."""
        return self.of(np.arange(start, start + self.size) % len(self.images))

    def of(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        return standardise(self.network, self.images[indices])


@dataclass(frozen=True)
class BuiltCase:
    """A session, the step that is timed, and the prepared batches that it is timed on."""

    session: Session
    images: ImageBatches
    step: Callable[[Any], Any]
    pool: Iterator[Any]


class InferenceWorker:
    """The sessions that a process has built, by case."""

    def __init__(self) -> None:
        self._opened: OpenBackend | None = None
        self._cases: dict[str, BuiltCase] = {}

    def build(self, request: messages.Build) -> messages.BuildReply:
        if not request.reported:
            # Imports make a million objects and hardly any garbage.
            gc.disable()
        try:
            reply = self._build(request)
            # All that was built stays: without it, the collection before each slice has little to traverse.
            gc.collect()
            gc.freeze()
        finally:
            gc.enable()
        return reply

    def _build(self, request: messages.Build) -> messages.BuildReply:
        network = standardised_as_in(Path(request.weights), NETWORKS[request.model])
        spec = InferenceSpec(
            network=network,
            weights=load_weights(Path(request.weights), network),
            variant=request.variant,
            precision=request.precision,
            batch_size=request.batch_size,
            calibration=standardise(network, np.load(request.calibration, allow_pickle=False)),
            files=Path(request.files) if request.files else None,
            streams=request.streams,
        )
        images = ImageBatches(network, np.load(request.images, mmap_mode="r", allow_pickle=False), request.batch_size)
        if self._opened is None:
            pin_to_cores(request.cores)
            start = now_ns()
            backend = open_backend(request.stack, request.threads)
            self._opened = OpenBackend(request.stack, backend, now_ns() - start)
            require_preloaded()
        stack = stacks()[request.stack]
        compiles = stack.compiles_unbound and stack.variants[request.variant].compiles
        with ExitStack() as context:
            if compiles and request.cores and not request.reported:
                # Arms that share cores are bound to the same one, on which they would compile one after the other.
                context.enter_context(unbound(request.cores))
            start = now_ns()
            session = self._opened.backend.inference(spec)
            build_ns = now_ns() - start
            batch = session.prepare(images.starting_at(0))
            start = now_ns()
            session.step(batch)
            first_call_ns = now_ns() - start
        batch_bytes = request.batch_size * int(np.prod(network.input_shape)) * np.dtype(np.float32).itemsize
        count = max(MIN_POOL, min(MAX_POOL, POOL_BYTES // batch_bytes))
        batches = [session.prepare(images.starting_at(index * request.batch_size)) for index in range(count)]
        step, pool = delayed(session.step, cycle(batches), request.delay, request.wait)
        self._cases[request.case] = BuiltCase(session, images, step, pool)
        return messages.BuildReply(self._opened.import_ns, build_ns, first_call_ns)

    def run_slice(self, request: messages.RunSlice) -> messages.SliceReply:
        case, switches = self._built(request.case), involuntary_switches()
        if request.asynchronous:
            session = cast("AsynchronousSession", case.session)
            timing = time_pipeline(session.submit, session.drain, case.pool, request.budget_ns, request.lead_in)
        else:
            timing = time_slice(
                case.step, case.pool, request.budget_ns, request.lead_in,
                begin_ns=request.begin_ns, lead_in_ns=request.lead_in_ns,
            )  # fmt: skip
        return messages.SliceReply(timing.samples_ns, timing.wall_ns, timing.cpu_ns, involuntary_switches() - switches)

    def run_load(self, request: messages.RunLoad) -> messages.LoadReply:
        if request.addresses:
            return run_load_by_workers(request)
        cases = [self._built(name) for name in (request.case, *request.larger)]
        return run_load([Served(case.session, case.images) for case in cases], request)

    def answer_load(self, request: messages.AnswerLoad) -> messages.AnswerReply:
        case = self._built(request.case)
        return answer_load(Served(case.session, case.images), request)

    def predict(self, request: messages.Predict) -> messages.PredictReply:
        case = self._built(request.case)
        count = min(request.images, len(case.images.images))
        logits = []
        for start in range(0, count, case.images.size):
            batch = case.session.prepare(case.images.starting_at(start))
            # Copied, as a session may write every result to the same buffer.
            logits.append(case.session.to_numpy(case.session.step(batch)).copy())
        predicted = np.concatenate(logits)[:count]
        np.save(request.file, predicted, allow_pickle=False)
        return messages.PredictReply(len(predicted))

    def prove(self, request: messages.Prove) -> messages.ProofReply:
        """Return the session's proof, with peak memory and cores as they were before the profiler was active.

        Raises ProofError when another stack's framework was imported.
        """
        case, memory_bytes, cores = self._built(request.case), peak_memory_bytes(), allowed_cores()
        proof = case.session.prove(case.session.prepare(case.images.starting_at(0)))
        if self._opened:
            require_no_other_framework(self._opened.stack)
        return messages.ProofReply(**vars(proof), memory_bytes=memory_bytes, cores=cores)

    def save(self, request: messages.Save) -> messages.SaveReply:
        with tempfile.TemporaryDirectory(dir=".") as name:
            folder = Path(name)
            self._built(request.case).session.save(folder)
            return messages.SaveReply(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    def _built(self, case: str) -> BuiltCase:
        if case not in self._cases:
            raise NotReadyError(f"no session was built for {case}")
        return self._cases[case]


def convert_model(request: messages.Convert) -> messages.ConvertReply:
    start = now_ns()
    network = standardised_as_in(Path(request.weights), NETWORKS[request.model])
    no_images = np.empty((0, 28, 28), np.uint8)
    images = np.load(request.calibration, allow_pickle=False) if request.calibration else no_images
    spec = InferenceSpec(
        network=network,
        weights=load_weights(Path(request.weights), network),
        variant=request.variant,
        precision=request.precision,
        batch_size=1,
        calibration=standardise(network, images),
    )
    convert(request.stack, request.conversion, spec, Path(request.folder))
    return messages.ConvertReply(now_ns() - start)


def write_model_file(request: messages.WriteModel) -> messages.Done:
    network = NETWORKS[request.model]
    write_model(request.stack, Path(request.file), network, load_weights(Path(request.weights), network))
    return messages.Done()


def read_model_file(request: messages.ReadModel) -> messages.ReadModelReply:
    path, network = Path(request.file), NETWORKS[request.model]
    kind = kind_of(path, network)
    limit_memory(IMPORT_BYTES + COPIES * largest_file_bytes(network))
    with ExitStack() as opened:
        if kind == SAFETENSORS:
            contents = read_tensors(path)
        elif request.stack:
            contents = read_contents(request.stack, path)
        else:
            contents = opened.enter_context(open_keras(path, kind))
        reading = interpret(path, contents, network, request.assumed)
    save_weights(Path(request.weights), reading.weights, {})
    return messages.ReadModelReply(reading.pixels, reading.notes)


class LimitWorker:
    """The matrix product, or the addition of arrays, that a process timed last."""

    def __init__(self) -> None:
        self._work: dict[tuple[object, ...], Callable[[], object]] = {}

    def measure(self, request: messages.MeasureLimit) -> messages.LimitReply:
        pin_to_cores(request.cores)
        key = request.stack, request.threads, request.precision, request.size
        if key not in self._work:
            # Cleared first, so that the old arrays are free before the new ones are allocated.
            self._work.clear()
            if request.precision:
                self._work[key] = open_product(request.stack, request.threads, request.precision, request.size)
            else:
                self._work[key] = addition(request.size)
        work = self._work[key]
        timing = time_slice(
            lambda _: work(), repeat(None), request.budget_ns, request.lead_in, begin_ns=request.begin_ns
        )
        return messages.LimitReply(len(timing.samples_ns), timing.wall_ns)


def addition(size: int) -> Callable[[], object]:
    """Return a function that adds two fp32 arrays into a third; together they have `size` bytes."""
    first, second, total = (np.ones(size // 12, np.float32) for _ in range(3))
    return lambda: np.add(first, second, out=total)
