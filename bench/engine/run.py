"""Conduct a run: prepare, prove every arm, measure block by block, and leave a journal."""

from __future__ import annotations

import signal
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.registry import stacks
from bench.analysis import gates
from bench.clock import now_ns
from bench.engine import cache
from bench.engine.blocks import measure_blocks
from bench.engine.files import CALIBRATION, IMAGES, lay_out_images
from bench.engine.limits import measure_roofs
from bench.engine.proof import prove_all
from bench.engine.session import BUILD_TIMEOUT_S, SLICE_TIMEOUT_S, Model, Rig, describe_models, load_models
from bench.engine.workers import Worker, WorkerError
from bench.journal import JOURNAL, Journal, write_run
from bench.machine import facts, limits
from bench.records import SCHEMA, End, Failure, Overhead, Reference
from bench.suite import variables as settings
from bench.suite.arms import Arm
from bench.suite.environments import HARNESS, differences, environment_of
from bench.suite.plan import LEAD_IN, ORACLE_WEIGHT, WARM_UP_SLICE_NS, planned_pairs
from bench.suite.suite import takes_part
from models import oracle
from models.data import split, standardise
from models.errors import UserError
from models.weights import digest as digest_of
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from bench.console import Steps
    from bench.suite.plan import Plan
    from models.data import DataSet

OVERHEAD_NS = 10_000_000  # how long the backend that does nothing is timed
LOGITS = "logits.npy"
REMEDY = "free space there, or set XDG_CACHE_HOME or TMPDIR to another folder"


def conduct(plan: Plan, data: DataSet, folder: Path, steps: Steps, description: dict[str, Any]) -> str:
    """Measure everything in `plan` into `folder` and return how it ended: complete, settled or interrupted.

    Raises UserError when the disk refuses; what was written until then is whole.
    """
    begin = now_ns()
    limits.allow_many_files()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch, models = Path(name), _lay_out(plan, data, Path(name))
        write_run(folder, description | {"models": describe_models(models)})
        (folder / "logs").mkdir()
        with Journal(folder / JOURNAL) as journal:
            files = scratch / IMAGES, scratch / CALIBRATION
            rig = Rig(plan, folder, scratch, journal, models, *files, data=data, steps=steps)
            try:
                status = _measure(rig)
            except KeyboardInterrupt:
                status = "interrupted"
            except OSError as error:
                raise UserError(f"{error.filename or scratch}: {error.strerror}; {REMEDY}") from error
            journal.append(End(status, now_ns() - begin))
    return status


def _lay_out(plan: Plan, data: DataSet, scratch: Path) -> dict[str, Model]:
    """Write what every worker reads: weights, test images, and the training images that int8 is calibrated on."""
    try:
        lay_out_images(data, scratch)
        if plan.suite.recipe:
            split(data, 0.0).first(plan.epoch_images).lay_out(scratch)
        return load_models(plan.suite.inference_models, scratch)
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
    if rig.plan.suite.inference_models:
        _measure_overhead(rig)
        _consult_oracle(rig)
        prove_all(rig)
        measure_roofs(rig)
    return measure_blocks(rig)


def _skip_missing(rig: Rig) -> None:
    for arm, case in product(rig.plan.suite.measured, rig.plan.suite.cases):
        obstacle = rig.plan.obstacle(arm)
        if obstacle and takes_part(arm, case):
            rig.journal.append(Failure(arm.id, case.id, None, obstacle, skipped=True))


def _measure_overhead(rig: Rig) -> None:
    """Time the backend that does nothing, with the same loop in the same kind of process."""
    null, case = Arm("null", "constant"), rig.plan.suite.cases[0]
    environment = environment_of(stacks()["null"])
    log = rig.folder / "logs" / "null.log"
    variables = settings.variables(null.settings, rig.plan.threads)
    try:
        with Worker(environment.python, variables, log, rig.scratch, urgent=True) as worker:
            request = rig.deployment(null, case) | {"threads": rig.plan.threads, "cores": None, "wait": 0.0}
            worker.wait_until_ready().request("build", BUILD_TIMEOUT_S, **request)
            work = {"asynchronous": False, "budget_ns": OVERHEAD_NS, "lead_in": 1000, "begin_ns": 0}
            timing = worker.request("slice", SLICE_TIMEOUT_S, case=case.id, **work)
        rig.journal.append(Overhead(tuple(timing["samples_ns"])))
    except WorkerError as error:
        rig.fail(null, case, None, error)


def _consult_oracle(rig: Rig) -> None:
    """Compute each network's logits of all test images, or take them from the cache."""
    for name, model in rig.models.items():
        network = NETWORKS[name]
        digest = cache.key(spec=network.digest, weights=digest_of(model.weights), images=rig.data.digest)
        folder, _, _ = cache.entry("oracle", digest, partial(_compute_oracle, rig, name))
        logits: NDArray[np.float64] = np.load(folder / LOGITS, allow_pickle=False)
        rig.oracle[name] = logits
        labels, truth = ("".join(map(str, each)) for each in (logits.argmax(axis=1), rig.data.test_labels))
        rig.journal.append(Reference(name, labels, truth))
        rig.steps.step(ORACLE_WEIGHT, f"{name}: what the oracle says of the test images")


def _compute_oracle(rig: Rig, name: str, folder: Path) -> dict[str, Any]:
    images = standardise(NETWORKS[name], rig.data.test_images)
    np.save(folder / LOGITS, oracle.logits(NETWORKS[name], rig.models[name].weights, images), allow_pickle=False)
    return {"model": name}


def describe(plan: Plan, data: DataSet, command: Sequence[str], started: str, git_commit: str | None) -> dict[str, Any]:
    """Return what run.json holds before anything is measured."""
    environments = {each.name: each for each in plan.environments.values()}
    return {
        "schema": SCHEMA,
        "command": list(command),
        "started": started,
        "git_commit": git_commit,
        "suite": {
            "name": plan.suite.name,
            "summary": plan.suite.summary,
            "training": _training(plan),
            "wait": plan.suite.wait,
        },
        "preset": plan.preset.name,
        "seed": plan.seed,
        "threads": plan.threads,
        "arms": [asdict(arm) for arm in plan.suite.measured],
        "cases": [asdict(case) for case in plan.suite.cases],
        "pairs": [
            {"arm": pair.arm.id, "baseline": pair.baseline.id, "case": pair.case.id, "candidate": pair.candidate}
            for pair in planned_pairs(plan.suite)
        ],
        "ladders": [
            {"name": ladder.name, "steps": [{"name": step.name, "arm": step.arm.id} for step in ladder.steps]}
            for ladder in plan.suite.ladders
        ],
        "lineups": {
            case.id: [arm.id for arm in plan.suite.measured if takes_part(arm, case)] for case in plan.suite.cases
        },
        "schedule": [asdict(block) for block in plan.schedule],
        "protocol": {
            "slice_ns": plan.preset.slice_ns,
            "lead_in": LEAD_IN,
            "warm_up_slice_ns": WARM_UP_SLICE_NS,
            "warm_up_limit_ns": plan.preset.warm_up_limit_ns,
            "check_images": gates.CHECK_IMAGES,
        },
        "settings": {name: _variables(name, plan.thread_counts) for name in _used_settings(plan)},
        "restart_settings": settings.restart_variables(),
        "machine": facts.describe(),
        "stacks": {
            name: {
                "environment": stack.environment or HARNESS,
                "summary": stack.summary,
                "baselines": stack.baselines,
                "compiles": bool(stack.cache_variables),
                "variants": {
                    variant: {"summary": each.summary, "settings": each.settings}
                    for variant, each in stack.variants.items()
                },
            }
            for name, stack in stacks().items()
        },
        "environments": {
            name: {"python": each.python_version, "bytes": each.installed_bytes, "packages": each.packages}
            for name, each in environments.items()
        },
        "missing": plan.missing,
        "mismatches": {
            f"{ours.name} {theirs.name}": found
            for ours, theirs in plan.environment_pairs
            if (found := differences(ours, theirs))
        },
        "data": {"name": data.name, "digest": data.digest},
    }


def _variables(name: str, thread_counts: Sequence[int]) -> dict[str, str]:
    """Return the environment variables of settings; those that differ between numbers of threads, with all values."""
    every = [settings.variables(name, threads) for threads in thread_counts]
    return {variable: " or ".join(dict.fromkeys(each[variable] for each in every)) for variable in every[0]}


def _training(plan: Plan) -> dict[str, Any] | None:
    """Return what run.json says of how arms train: recipe, epochs, images of an epoch."""
    suite = plan.suite
    if not suite.recipe:
        return None
    return {
        "recipe": asdict(suite.recipe),
        "epochs": suite.epochs,
        "images": plan.epoch_images,
        "seeds": plan.preset.seeds,
    }


def _used_settings(plan: Plan) -> list[str]:
    return list(dict.fromkeys(arm.settings for arm in plan.suite.measured))
