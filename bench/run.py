"""Conduct a run: prepare, prove every arm, measure block by block, and leave a journal."""

from __future__ import annotations

import signal
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import stacks
from bench import checks, machine
from bench.blocks import measure_blocks
from bench.errors import UserError
from bench.journal import JOURNAL, Journal, write_run
from bench.launch import Worker, WorkerError
from bench.measure import now_ns
from bench.plan import LEAD_IN, SLICE_NS, WARM_UP_SLICE_NS, planned_pairs
from bench.prove import prove_all
from bench.records import SCHEMA, Arm, End, Failure, Overhead
from bench.rig import (
    BUILD_TIMEOUT_S,
    SLICE_TIMEOUT_S,
    Model,
    Rig,
    describe_models,
    load_models,
    restart_settings,
    settings,
)
from bench.stacks import HARNESS, differences, environment_of
from models import oracle
from models.data import standardise
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.plan import Plan
    from bench.progress import Steps
    from models.data import DataSet


def conduct(plan: Plan, data: DataSet, folder: Path, steps: Steps, description: dict[str, Any]) -> str:
    """Measure everything in `plan` into `folder` and return how it ended: complete, settled or interrupted.

    Raises UserError when the disk refuses; what was written until then is whole.
    """
    begin = now_ns()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch, (models, images) = Path(name), _lay_out(plan, data, Path(name))
        write_run(folder, description | {"models": describe_models(models)})
        (folder / "logs").mkdir()
        with Journal(folder / JOURNAL) as journal:
            rig = Rig(plan, folder, scratch, journal, models, images, data.test_labels, data.name, steps)
            try:
                status = _measure(rig)
            except KeyboardInterrupt:
                status = "interrupted"
            journal.append(End(status, now_ns() - begin))
    return status


def _lay_out(plan: Plan, data: DataSet, scratch: Path) -> tuple[dict[str, Model], Path]:
    """Write what every worker reads: weights and test images."""
    try:
        images = scratch / "test-images.npy"
        np.save(images, data.test_images, allow_pickle=False)
        return load_models(plan.suite.models, scratch), images
    except OSError as error:
        raise UserError(f"{scratch}: {error}; free space there, or name another folder with TMPDIR") from error


@contextmanager
def first_interrupt_only() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into KeyboardInterrupt, and ignore those that follow it.

    What ends a run early (stopping the workers, writing the report) is thus not cut short by an impatient second one,
    or by the copy that tox sends.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _measure(rig: Rig) -> str:
    _skip_missing(rig)
    _measure_overhead(rig)
    _compute_oracle(rig)
    prove_all(rig)
    return measure_blocks(rig)


def _skip_missing(rig: Rig) -> None:
    absent = [arm for arm in rig.plan.suite.measured if arm.stack in rig.plan.missing]
    for arm, case in product(absent, rig.plan.suite.cases):
        rig.journal.append(Failure(arm.id, case.id, None, rig.plan.missing[arm.stack], skipped=True))


def _measure_overhead(rig: Rig) -> None:
    """Time the backend that does nothing, with the same loop in the same kind of process."""
    null, case = Arm("null", "constant"), rig.plan.suite.cases[0]
    environment = environment_of(stacks()["null"])
    log = rig.folder / "logs" / "null.log"
    try:
        with Worker(environment.python, settings(rig.plan.threads), log, rig.scratch) as worker:
            worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **rig.build_request(null, case))
            timing = worker.request("slice", SLICE_TIMEOUT_S, budget_ns=SLICE_NS // 20, lead_in=1000)
        rig.journal.append(Overhead(tuple(timing["samples_ns"])))
    except WorkerError as error:
        rig.fail(null, case, None, error)


def _compute_oracle(rig: Rig) -> None:
    """Compute each network's logits of all test images."""
    images = np.load(rig.images, mmap_mode="r", allow_pickle=False)
    for name, model in rig.models.items():
        rig.oracle[name] = oracle.logits(NETWORKS[name], model.weights, standardise(NETWORKS[name], images))


def describe(plan: Plan, data: DataSet, command: Sequence[str], started: str, git_commit: str | None) -> dict[str, Any]:
    """Return what run.json holds before anything is measured."""
    environments = {each.name: each for each in plan.environments.values()}
    return {
        "schema": SCHEMA,
        "command": list(command),
        "started": started,
        "git_commit": git_commit,
        "suite": {"name": plan.suite.name, "summary": plan.suite.summary, "scenario": plan.suite.scenario},
        "preset": plan.preset.name,
        "seed": plan.seed,
        "threads": plan.threads,
        "arms": [asdict(arm) for arm in plan.suite.measured],
        "cases": [asdict(case) for case in plan.suite.cases],
        "pairs": [
            {"arm": pair.arm.id, "baseline": pair.baseline.id, "case": pair.case.id, "candidate": pair.candidate}
            for pair in planned_pairs(plan.suite)
        ],
        "schedule": [asdict(block) for block in plan.schedule],
        "protocol": {
            "slice_ns": SLICE_NS,
            "lead_in": LEAD_IN,
            "warm_up_slice_ns": WARM_UP_SLICE_NS,
            "warm_up_limit_ns": plan.preset.warm_up_limit_ns,
            "check_images": checks.CHECK_IMAGES,
        },
        "settings": settings(plan.threads),
        "restart_settings": restart_settings(),
        "machine": machine.describe(),
        "stacks": {
            name: {"environment": stack.environment or HARNESS, "summary": stack.summary, "baseline": stack.baseline}
            for name, stack in stacks().items()
        },
        "environments": {
            name: {"python": each.python_version, "packages": each.packages} for name, each in environments.items()
        },
        "missing": plan.missing,
        "mismatches": {
            f"{ours.name} {theirs.name}": found
            for ours, theirs in plan.environment_pairs
            if (found := differences(ours, theirs))
        },
        "data": {"name": data.name, "digest": data.digest},
    }
