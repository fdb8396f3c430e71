"""The process that runs inside a stack's environment and obeys requests: one JSON line in, one out.

Imports the standard library, NumPy, `backends`, `models` and the timed loop only. Requests arrive on the file
descriptor named first on the command line, answers leave on the second, so that whatever a framework prints can't be
taken for an answer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
from dataclasses import dataclass
from itertools import cycle, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from backends.protocol import InferenceSpec, ProofError, UnsupportedError
from backends.registry import convert, open_backend, open_product, read_model, write_model
from bench.clock import now_ns
from bench.worker.process import (
    involuntary_switches,
    peak_memory_bytes,
    require_no_other_framework,
    require_preloaded,
    take_place,
)
from bench.worker.timing import DivergedError, delayed, time_pipeline, time_slice
from bench.worker.training import TRAINING_REQUESTS, TrainingWorker
from models.data import standardise
from models.errors import UserError
from models.weights import load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from backends.protocol import AsynchronousSession, Session

PR_SET_PDEATHSIG = 1
POOL_BYTES = 8 << 20  # distinct input batches kept ready: about a last-level cache's share, two batches at the least
POOL_BATCHES = 256
REQUESTS = ("build", "convert", "slice", "predict", "prove", "save", "write", "read", "roof")


@dataclass(frozen=True)
class Built:
    """A session for one case, the step that is timed, and the distinct batches that it is timed on."""

    session: Session
    step: Callable[[Any], Any]
    batch_size: int
    batches: Iterator[Any]


class Worker:
    """The state of one process: an open backend and the sessions or the training built with it."""

    def __init__(self) -> None:
        self._built: dict[str, Built] = {}
        self._import_ns: int | None = None
        self._placed = False
        self._roof: tuple[tuple[Any, ...], Callable[[], object]] | None = None

    def build(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import once, build a case's session and make the first call; each timed apart, in ns."""
        deployment = self._deployment(request)
        self.images = np.load(request["images"], mmap_mode="r", allow_pickle=False)
        if self._import_ns is None:
            self._take_place(request["cores"])
            start = now_ns()
            self._stack, self._backend = request["stack"], open_backend(request["stack"], request["threads"])
            self._import_ns = now_ns() - start
            require_preloaded()
        begin = now_ns()
        session = self._backend.inference(deployment)
        built = now_ns()
        batch = session.prepare(self._batch(0, deployment.batch_size))
        before = now_ns()
        session.step(batch)
        after = now_ns()
        batches = cycle(self._pool(session, deployment))
        step, pool = delayed(session.step, batches, request["delay"], request["wait"])
        self._built[request["case"]] = Built(session, step, deployment.batch_size, pool)
        gc.collect()
        gc.freeze()  # what is built stays: the collection before each slice has little left to look at
        return {
            "import_ns": self._import_ns,
            "build_ns": built - begin,
            "first_call_ns": after - before,
        }

    def convert(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the files that a variant starts from; the time in ns has the imports that this takes in it."""
        start = now_ns()
        convert(request["stack"], request["conversion"], self._deployment(request), Path(request["folder"]))
        return {"convert_ns": now_ns() - start}

    def slice(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time one slice."""
        built = self._built[request["case"]]
        before = involuntary_switches()
        if request["asynchronous"]:
            work = cast("AsynchronousSession", built.session)
            timing = time_pipeline(work.submit, work.drain, built.batches, request["budget_ns"], request["lead_in"])
        else:
            plan = request["budget_ns"], request["lead_in"]
            timing = time_slice(built.step, built.batches, *plan, begin_ns=request["begin_ns"])
        switches = involuntary_switches() - before
        return {**vars(timing), "involuntary_switches": switches}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the logits of the first `images` test images to a file; count the images."""
        built, count = self._built[request["case"]], min(request["images"], len(self.images))
        starts = range(0, count, built.batch_size)
        logits = np.concatenate([self._logits(built, start) for start in starts])[:count]
        np.save(request["file"], logits, allow_pickle=False)
        return {"images": len(logits)}

    def prove(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the session's proof; raises ProofError when another stack's framework was imported."""
        built, memory_bytes = self._built[request["case"]], peak_memory_bytes()
        proof = built.session.prove(built.session.prepare(self._batch(0, built.batch_size)))
        require_no_other_framework(self._stack)
        return {**vars(proof), "memory_bytes": memory_bytes}

    def save(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the size of what a user of the case's variant would ship."""
        with tempfile.TemporaryDirectory(dir=".") as folder:
            self._built[request["case"]].session.save(Path(folder))
            return {"saved_bytes": sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())}

    def write(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write weights in the file format of a stack's framework."""
        network = NETWORKS[request["model"]]
        weights = load_weights(Path(request["weights"]), network)
        write_model(request["stack"], Path(request["file"]), network, weights)
        return {}

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        """Read weights from such a file, and write them as ours."""
        weights = read_model(request["stack"], Path(request["file"]), NETWORKS[request["model"]])
        save_weights(Path(request["weights"]), weights, {})
        return {}

    def roof(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time products of large matrices, or additions of arrays; count the calls."""
        self._take_place(request["cores"])
        wanted = request["stack"], request["threads"], request["precision"], request["order"]
        if self._roof is None or self._roof[0] != wanted:
            self._roof = None  # frees the last one's arrays first
            stack, threads, precision, order = wanted
            self._roof = wanted, open_product(stack, threads, precision, order) if precision else addition(order)
        work = self._roof[1]
        plan = request["budget_ns"], request["lead_in"]
        timing = time_slice(lambda _: work(), repeat(None), *plan, begin_ns=request["begin_ns"])
        return {"calls": len(timing.samples_ns), "wall_ns": timing.wall_ns}

    def _take_place(self, cores: list[int] | None) -> None:
        """Take the process's place, once: a framework that has bound this thread is not to find it unbound."""
        if not self._placed:
            take_place(cores)
            self._placed = True

    def _deployment(self, request: dict[str, Any]) -> InferenceSpec:
        self.network = NETWORKS[request["model"]]
        calibration = np.load(request["calibration"], allow_pickle=False)
        return InferenceSpec(
            network=self.network,
            weights=load_weights(Path(request["weights"]), self.network),
            variant=request["variant"],
            precision=request["precision"],
            batch_size=int(request["batch_size"]),
            calibration=standardise(self.network, calibration),
            files=Path(request["files"]) if request["files"] else None,
        )

    def _batch(self, start: int, size: int) -> NDArray[np.float32]:
        """Return a full neutral batch; the last images are padded by wrapping around to the first."""
        return standardise(self.network, self.images[np.arange(start, start + size) % len(self.images)])

    def _logits(self, built: Built, start: int) -> NDArray[np.float32]:
        batch = built.session.prepare(self._batch(start, built.batch_size))
        return built.session.to_numpy(built.session.step(batch)).copy()

    def _pool(self, session: Session, deployment: InferenceSpec) -> list[Any]:
        """Prepare distinct batches, so that every timed call gets a fresh input."""
        batch_size = deployment.batch_size
        size = batch_size * int(np.prod(self.network.input_shape)) * 4
        count = max(2, min(POOL_BATCHES, POOL_BYTES // size))
        return [session.prepare(self._batch(index * batch_size, batch_size)) for index in range(count)]


def addition(size: int) -> Callable[[], object]:
    """Return the sum of two arrays into a third; all three together have `size` bytes, which each call moves."""
    one, other, total = (np.ones(size // 12, np.float32) for _ in range(3))
    return lambda: np.add(one, other, out=total)


def answer(handle: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """Return what `handle` says, or why it could not."""
    try:
        return handle(request)
    except UnsupportedError as error:
        return {"unsupported": str(error)}
    except (DivergedError, UserError) as error:
        return {"error": str(error)}
    except ProofError as error:
        return {"error": f"proof failed: {error}"}
    except Exception as error:  # noqa: BLE001 - whatever a framework raises becomes a failed row with its reason
        sys.excepthook(type(error), error, error.__traceback__)
        return {"error": f"{type(error).__name__}: {error}"}


def serve(requests: int, answers: int) -> None:
    """Obey until the orchestrator closes its end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    worker, trainer = Worker(), TrainingWorker()
    handlers = {name: getattr(worker, name) for name in REQUESTS}
    handlers |= {name: getattr(trainer, name) for name in TRAINING_REQUESTS}
    with os.fdopen(requests) as incoming, os.fdopen(answers, "w") as outgoing:
        outgoing.write(json.dumps({"ready": os.getpid()}) + "\n")
        outgoing.flush()
        for line in incoming:
            request = json.loads(line)
            outgoing.write(json.dumps(answer(handlers[request.pop("do")], request)) + "\n")
            outgoing.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
