"""The loop of a worker process: one request in, one reply out.

Requests arrive on the file descriptor that is the first argument. Replies leave on the second, so that nothing that a
framework prints can be mistaken for a reply.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from backends.protocol import ProofError, UnsupportedError
from bench.codec import encode
from bench.worker import messages
from bench.worker.inference import InferenceWorker, LimitWorker, convert_model, read_model_file, write_model_file
from bench.worker.process import NotReadyError, move_threads
from bench.worker.timing import DivergedError
from bench.worker.training import TrainingWorker
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Handlers = Mapping[type[messages.Request[Any]], Callable[[Any], object]]

PR_SET_PDEATHSIG = 1


def request_handlers() -> Handlers:
    inference, training, limits = InferenceWorker(), TrainingWorker(), LimitWorker()
    return {
        messages.Build: inference.build,
        messages.Move: move_threads,
        messages.RunSlice: inference.run_slice,
        messages.RunLoad: inference.run_load,
        messages.AnswerLoad: inference.answer_load,
        messages.Predict: inference.predict,
        messages.Prove: inference.prove,
        messages.Save: inference.save,
        messages.Convert: convert_model,
        messages.WriteModel: write_model_file,
        messages.ReadModel: read_model_file,
        messages.MeasureLimit: limits.measure,
        messages.Listen: training.listen,
        messages.OpenTraining: training.open,
        messages.RunEpoch: training.run_epoch,
        messages.Evaluate: training.evaluate,
        messages.SaveCheckpoint: training.save_checkpoint,
        messages.RestoreOptimizer: training.restore_optimizer,
        messages.DigestWeights: training.digest_weights,
        messages.ProveTraining: training.prove,
    }


def reply_to(line: str, handlers: Handlers) -> str:
    """Return the reply to a request, or why there is none, as one line of JSON."""
    try:
        request = messages.read_request(line)
        return json.dumps(encode(handlers[type(request)](request)))
    except UnsupportedError as error:
        return json.dumps({"unsupported": str(error)})
    except (DivergedError, NotReadyError, UserError) as error:
        return json.dumps({"error": str(error)})
    except ProofError as error:
        return json.dumps({"error": f"proof failed: {error}"})
    except Exception as error:  # noqa: BLE001 - whatever a framework raises becomes the reason of a failed arm
        sys.excepthook(type(error), error, error.__traceback__)
        return json.dumps({"error": f"{type(error).__name__}: {error}"})


def serve(requests: int, replies: int) -> None:
    """Reply to requests until the orchestrator closes its end of the pipe."""
    # A worker must not outlive the orchestrator, even if that is killed.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    handlers = request_handlers()
    with os.fdopen(requests) as incoming, os.fdopen(replies, "w") as outgoing:
        outgoing.write(json.dumps({"ready": os.getpid()}) + "\n")
        outgoing.flush()
        for line in incoming:
            outgoing.write(reply_to(line, handlers) + "\n")
            outgoing.flush()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
