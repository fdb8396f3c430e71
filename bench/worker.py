"""The process that runs inside a stack's environment and obeys requests: one JSON line in, one out.

Imports the standard library, NumPy, `backends` and `models` only. Requests arrive on the file descriptor named first on
the command line, answers leave on the second, so that whatever a framework prints can't be taken for an answer.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import sys
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import ProofError, UnsupportedError, open_backend
from bench.measure import now_ns, time_slice
from models.data import standardise
from models.recipes import RECIPES
from models.weights import load_weights, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from backends.protocol import Session

PR_SET_PDEATHSIG = 1
POOL_BYTES = 8 << 20  # distinct input batches kept ready: about a last-level cache's share, two batches at the least
POOL_BATCHES = 256


class Worker:
    """The state of one process: an open backend and the session or training built with it."""

    def build(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import, build and make the first call; each timed apart, in ns."""
        self.network = NETWORKS[request["model"]]
        weights = load_weights(Path(request["weights"]), self.network)
        self.images = np.load(request["images"], mmap_mode="r", allow_pickle=False)
        self.batch_size = int(request["batch_size"])
        start = now_ns()
        backend = open_backend(request["stack"], request["threads"])
        imported = now_ns()
        self.session: Session = backend.inference(
            self.network, weights, request["variant"], request["precision"], self.batch_size
        )
        built = now_ns()
        batch = self.session.prepare(self._batch(0))
        before = now_ns()
        self.session.step(batch)
        after = now_ns()
        self.batches = cycle(self._pool())
        gc.collect()
        gc.freeze()  # what is built stays: the collection before each slice has little left to look at
        return {
            "import_ns": imported - start,
            "build_ns": built - imported,
            "first_call_ns": after - before,
            "peak_memory_bytes": _peak_memory_bytes(),
        }

    def slice(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time one slice."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        timing = time_slice(self.session.step, self.batches, request["budget_ns"], request["lead_in"])
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - before
        return {**vars(timing), "involuntary_switches": switches}

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the logits of the first `images` test images to a file; count the images."""
        count = min(request["images"], len(self.images))
        starts = range(0, count, self.batch_size)
        batches = [self._logits(start) for start in starts]
        logits = np.concatenate(batches)[:count]
        np.save(request["file"], logits, allow_pickle=False)
        return {"images": len(logits)}

    def prove(self, request: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - every request has this signature
        """Return the session's proof."""
        return vars(self.session.prove(self.session.prepare(self._batch(0))))

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Open a training; `images` and `labels` are the files of the training split."""
        self.network, self.recipe = NETWORKS[request["model"]], RECIPES[request["recipe"]]
        weights = load_weights(Path(request["weights"]), self.network)
        self.images = standardise(self.network, np.load(request["images"], allow_pickle=False))
        self.labels = np.load(request["labels"], allow_pickle=False).astype(np.int64)
        self.training = open_backend(request["stack"], request["threads"]).training(self.network, weights, self.recipe)
        return {}

    def epoch(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train one epoch in a seeded order, the last partial batch included; write the weights."""
        order = np.random.RandomState(request["seed"]).permutation(len(self.images))
        start, loss = now_ns(), 0.0
        for step, index in enumerate(range(0, len(order), self.recipe.batch_size)):
            chosen = order[index : index + self.recipe.batch_size]
            rate = request["learning_rates"][step]
            loss += self.training.step(self.images[chosen], self.labels[chosen], rate) * len(chosen)
        wall = now_ns() - start
        save_weights(Path(request["file"]), self.training.weights(), {})
        return {"loss": loss / len(order), "wall_ns": wall}

    def _batch(self, start: int) -> NDArray[np.float32]:
        """Return a full neutral batch; the last images are padded by wrapping around to the first."""
        chosen = np.arange(start, start + self.batch_size) % len(self.images)
        return standardise(self.network, self.images[chosen])

    def _logits(self, start: int) -> NDArray[np.float32]:
        return self.session.to_numpy(self.session.step(self.session.prepare(self._batch(start)))).copy()

    def _pool(self) -> list[Any]:
        """Prepare distinct batches, so that every timed call gets a fresh input."""
        size = self.batch_size * int(np.prod(self.network.input_shape)) * 4
        count = max(2, min(POOL_BATCHES, POOL_BYTES // size))
        return [self.session.prepare(self._batch(index * self.batch_size)) for index in range(count)]


def _peak_memory_bytes() -> int:
    """Return the peak resident set of this program (ru_maxrss would count the parent's before exec)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def answer(handle: Callable[[dict[str, Any]], dict[str, Any]], request: dict[str, Any]) -> dict[str, Any]:
    """Return what `handle` says, or why it could not."""
    try:
        return handle(request)
    except UnsupportedError as error:
        return {"unsupported": str(error)}
    except ProofError as error:
        return {"error": f"proof failed: {error}"}
    except Exception as error:  # noqa: BLE001 - whatever a framework raises becomes a failed row with its reason
        sys.excepthook(type(error), error, error.__traceback__)
        return {"error": f"{type(error).__name__}: {error}"}


def serve(requests: int, answers: int) -> None:
    """Obey until the orchestrator closes its end."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    worker = Worker()
    handlers = {name: getattr(worker, name) for name in ("build", "slice", "predict", "prove", "train", "epoch")}
    with os.fdopen(requests) as incoming, os.fdopen(answers, "w") as outgoing:
        outgoing.write(json.dumps({"ready": os.getpid()}) + "\n")
        outgoing.flush()
        for line in incoming:
            request = json.loads(line)
            outgoing.write(json.dumps(answer(handlers[request.pop("do")], request)) + "\n")
            outgoing.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
