"""The requests of a worker, in this process, with the null backend."""

import gc
import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest

from backends.protocol import ProofError, UnsupportedError
from backends.registry import stacks
from bench.codec import decode
from bench.worker import inference
from bench.worker.__main__ import reply_to, request_handlers
from bench.worker.messages import (
    REQUESTS,
    Build,
    BuildReply,
    MeasureLimit,
    Predict,
    PredictReply,
    ProofReply,
    Prove,
    ProveTraining,
    RunSlice,
    Save,
    SaveReply,
    SliceReply,
    request_line,
)
from bench.worker.timing import DivergedError
from models.errors import UserError
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL


@pytest.fixture
def ask():
    """Return a function that sends a request to one worker, and returns the content of its reply."""
    handlers = request_handlers()
    yield lambda request: json.loads(reply_to(request_line(request), handlers))
    gc.unfreeze()


@pytest.fixture
def build(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((5, 28, 28), np.uint8))
    images = str(tmp_path / "images.npy")
    return Build(
        case="c", stack="null", variant="constant", model="cnn-small", precision="fp32", batch_size=2, threads=1,
        cores=None, weights=str(checkpoint_path(CNN_SMALL)), images=images, calibration=images,
    )  # fmt: skip


def test_every_request_has_a_handler() -> None:
    assert request_handlers().keys() == set(REQUESTS.values())


def test_a_session_is_built_once_and_used_by_case(ask, build, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, again = (decode(BuildReply, ask(build)) for _ in range(2))
    assert first.import_ns == again.import_ns
    file = tmp_path / "logits.npy"
    assert decode(PredictReply, ask(Predict("c", 9, str(file)))).images == 5
    assert np.load(file).shape == (5, 10)
    assert len(decode(SliceReply, ask(RunSlice("c", budget_ns=0, lead_in=0))).samples_ns) == 1
    assert decode(ProofReply, ask(Prove("c"))).precision == "fp32"
    assert decode(SaveReply, ask(Save("c"))).saved_bytes == 0


@pytest.mark.parametrize(
    ("compiles_unbound", "compiles", "reported", "expected"),
    [
        (True, True, False, [(0, 1)]),
        (False, True, False, []),
        (True, False, False, []),
        (True, True, True, []),
    ],
    ids=["compiles", "a library looks at the cores", "does not compile", "reported"],
)
def test_only_starts_in_blocks_compile_unbound(
    ask, build, monkeypatch, compiles_unbound, compiles, reported, expected
) -> None:
    null, given = stacks()["null"], []
    variants = {name: replace(variant, compiles=compiles) for name, variant in null.variants.items()}
    stack = replace(null, compiles_unbound=compiles_unbound, variants=variants)
    monkeypatch.setattr(inference, "stacks", lambda: {"null": stack})
    monkeypatch.setattr(inference, "pin_to_cores", lambda _: None)
    monkeypatch.setattr(inference, "unbound", lambda cores: given.append(cores) or nullcontext())
    ask(replace(build, cores=(0, 1), reported=reported))
    assert given == expected


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (RunSlice("c", budget_ns=1, lead_in=0), "no session was built for c"),
        (Predict("other", 1, ""), "no session was built for other"),
        (Prove("c"), "no session was built for c"),
        (ProveTraining(), "no training was opened"),
    ],
)
def test_a_request_before_the_one_that_it_needs_is_an_error(ask, request_, reason) -> None:
    assert ask(request_) == {"error": reason}


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (UnsupportedError("no int8"), {"unsupported": "no int8"}),
        (UserError("bad file"), {"error": "bad file"}),
        (DivergedError("diverged"), {"error": "diverged"}),
        (ProofError("no kernel"), {"error": "proof failed: no kernel"}),
        (RuntimeError("broken"), {"error": "RuntimeError: broken"}),
    ],
)
def test_exceptions_become_replies(error, reply) -> None:
    def fail(_: Save) -> None:
        raise error

    assert json.loads(reply_to(request_line(Save("c")), {Save: fail})) == reply


def test_a_line_that_is_not_a_request_is_an_error() -> None:
    assert "error" in json.loads(reply_to("rubbish\n", {}))


def test_a_limit_is_timed_and_its_arrays_are_kept_until_another_one(ask) -> None:
    traffic = MeasureLimit("oracle", 1, (), None, 1 << 12, budget_ns=0, lead_in=1, begin_ns=0)
    product = MeasureLimit("oracle", 1, (), "fp32", 8, budget_ns=0, lead_in=1, begin_ns=0)
    for request in (traffic, product, product):
        assert ask(request)["calls"] == 1
