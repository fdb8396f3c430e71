"""A run of the harness's own stacks on a few images, and worker groups without processes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench.engine.context import RunContext, Tally, load_models
from bench.engine.files import lay_out_images
from bench.suite.arms import Arm
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from bench.suite.suite import Suite
from bench.worker.messages import Move, MoveReply
from models.data import DataSet

ORACLE, REPLICA = Arm("oracle", "numpy"), Arm("oracle", "numpy", replica=True)
SUITE = Suite(
    name="own", summary="the oracle compared with itself", scenarios=("latency",), models=("cnn-small",),
    batch_sizes=(1, 4), precisions=("fp32",), arm_patterns=(ORACLE,), baselines=(ORACLE,), primary=(),
)  # fmt: skip
ONE, FOUR = SUITE.cases
PRESET = replace(PRESETS["smoke"], slice_ns=1_000_000, warm_up_limit_ns=1_000_000, cold_starts=True)


class FakeGroup:
    """A worker group that replies to each type of request by calling a function with the request."""

    def __init__(self, replies, workers=1) -> None:
        self.replies = {Move: lambda request: MoveReply(request.after)} | replies
        self.workers, self.requests = [SimpleNamespace(pid=2**22 + n) for n in range(workers)], []
        self.stopped, self.driver = False, None

    @property
    def processes(self):
        return self.workers

    @property
    def pids(self):
        return [worker.pid for worker in self.workers]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_until_ready(self):
        return self

    def request(self, request, timeout_s):
        return self.request_each([request] * len(self.workers), timeout_s)

    def request_each(self, requests, timeout_s):
        assert len(requests) == len(self.workers)
        self.requests += requests
        return [self.replies[type(request)](request) for request in requests]

    def kill(self):
        pass

    def stop(self):
        self.stopped = True


class MemoryJournal(list):
    """A journal in memory."""

    def of(self, kind):
        return [record for record in self if isinstance(record, kind)]


@pytest.fixture(scope="session")
def few_images() -> DataSet:
    random = np.random.default_rng(1)
    train, test = (random.integers(0, 256, (count, 28, 28), np.uint8) for count in (400, 12))
    return DataSet(
        "few", "digest", train, np.arange(400, dtype=np.uint8) % 10, test, np.arange(12, dtype=np.uint8) % 10
    )


@pytest.fixture
def context(tmp_path, few_images, monkeypatch) -> RunContext:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scratch, folder = tmp_path / "scratch", tmp_path / "run"
    scratch.mkdir()
    (folder / "logs").mkdir(parents=True)
    lay_out_images(few_images, scratch)
    plan = make_plan(SUITE, PRESET, seed=1, threads=1)
    return RunContext(plan, few_images, folder, scratch, load_models(("cnn-small",), scratch))


@pytest.fixture
def tally() -> Tally:
    return Tally(MemoryJournal())
