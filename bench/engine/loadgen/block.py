"""Blocks of LoadGen: every process does one LoadGen run, one process after the other."""

from __future__ import annotations

from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from bench.engine.block import InferenceBlock
from bench.engine.build import build_sessions
from bench.engine.workers import WorkerError
from bench.journal import LOGS
from bench.loadgen.detail_log import DetailLogError, load_result, read_details
from bench.loadgen.search import common_rate
from bench.loadgen.settings import (
    LOADED_SAMPLES,
    LOADGEN_NAMES,
    PERFORMANCE_ONLY,
    expected_run_ns,
    performance_settings,
)
from bench.records import LoadRun
from bench.suite.arms import OFFLINE
from bench.suite.suite import variant_of
from bench.worker.loadgen import ACCURACY_ONLY
from bench.worker.messages import AnswerLoad, RunLoad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.engine.context import RunContext, Tally
    from bench.engine.workers import WorkerGroup
    from bench.records import LoadResult
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Round
    from bench.worker.messages import LoadReply

# LoadGen's log of a run, its start and its end: seconds beside the run itself.
LOAD_TIMEOUT_S = 120


class LoadGenBlock(InferenceBlock):
    """Alternates arms in whole LoadGen runs. A server gets the same rate of queries for all arms."""

    def leaves_out(self, _: Round) -> bool:
        return False

    def prepare(self, group: WorkerGroup, arm: Arm, case: Case, cores: Sequence[int]) -> None:
        build_all(self.context, self.tally, group, arm, case, cores)

    def check(self, arm: Arm, case: Case) -> None:
        for built in (*larger_cases(arm, case), case):
            self.check_outputs(arm, case, built)

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        plan, seed = self.context.plan, self.context.plan.seed + self.block.number
        expected_ns = median(self.checks[arm.id, case.id].warm_up_medians_ns)
        images = len(self.context.data.test_labels)
        rates = [rate for (_, served), rate in self.tally.rates.items() if served == case.id and rate]
        rate, bound_ns = common_rate(rates) if rates else 0.0, 1000 * (plan.suite.server_bound_us or 0)
        settings = performance_settings(case, plan.preset.load_ms, expected_ns, images, seed, rate, bound_ns)
        folder = load_folder(self.context, arm, case, f"block-{self.block.number}")
        request = load_request(
            arm, case, PERFORMANCE_ONLY, settings, images, self.context.folder / folder, self.cores[arm.id]
        )
        group = self.groups[arm.id]
        timeout_s = load_timeout_s(expected_run_ns(case, settings, expected_ns))
        reply, conditions = self.observe(arm.id, lambda: run_load_in(group, request, timeout_s))
        self.store(
            LoadRun(
                arm=arm.id,
                case=case.id,
                block=self.block.number,
                round=number,
                position=position,
                folder=folder,
                result=read_result(case, settings, self.context.folder / folder),
                reply=reply,
                conditions=conditions,
            )
        )


def larger_cases(arm: Arm, case: Case) -> list[Case]:
    """Return the cases of larger batches that an arm with dynamic batching has sessions for."""
    return [replace(case, batch_size=size) for size in arm.batching.sizes] if arm.batching else []


def build_all(
    context: RunContext, tally: Tally, group: WorkerGroup, arm: Arm, case: Case, cores: Sequence[int]
) -> None:
    """Build an arm's sessions for a case, of all batch sizes; raises WorkerError or Unsupported."""
    split = context.split_of(tally, arm, case)
    for built in (case, *larger_cases(arm, case)):
        build_sessions(context, tally, group, arm, built, split, cores, reported=False)


def load_folder(context: RunContext, arm: Arm, case: Case, what: str) -> str:
    """Make the folder for the logs of a LoadGen run, empty; return its path inside of the run's folder."""
    folder = f"{LOGS}/loadgen/{case.id.replace('/', '-')}/{arm.slug}/{what}"
    path = context.folder / folder
    path.mkdir(parents=True, exist_ok=True)
    for old in path.iterdir():
        # Left by a block that was interrupted.
        old.unlink()
    return folder


def load_request(
    arm: Arm, case: Case, mode: str, settings: dict[str, float], images: int, folder: Path, cores: Sequence[int]
) -> RunLoad:
    return RunLoad(
        case=case.id,
        scenario=LOADGEN_NAMES[case.scenario],
        mode=mode,
        settings=settings,
        samples=images if case.scenario == OFFLINE or mode == ACCURACY_ONLY else LOADED_SAMPLES,
        folder=str(folder),
        cores=tuple(cores),
        asynchronous=variant_of(arm).asynchronous,
        total=images,
        batch_size=case.batch_size,
        larger=tuple(larger.id for larger in larger_cases(arm, case)),
        wait_ns=1000 * arm.batching.wait_us if arm.batching else 0,
    )


def run_load_in(group: WorkerGroup, request: RunLoad, timeout_s: float) -> LoadReply:
    """Let LoadGen drive a group's only worker, or its driver, which hands the queries to all workers."""
    if group.driver is None:
        return group.workers[0].request(request, timeout_s)
    # Relative to the folder in which all of them run, because the path of a socket must be short.
    addresses = tuple(f"load-{pid}" for pid in group.pids)
    stride = request.batch_size if request.scenario == LOADGEN_NAMES[OFFLINE] else 1
    answers = [AnswerLoad(request.case, address, stride) for address in addresses]
    for worker, answer in zip(group.workers, answers, strict=True):
        worker.send(answer)
    reply = group.driver.request(replace(request, addresses=addresses), timeout_s)
    used = [worker.receive(answer, timeout_s) for worker, answer in zip(group.workers, answers, strict=True)]
    return replace(
        reply,
        cpu_ns=reply.cpu_ns + sum(one.cpu_ns for one in used),
        involuntary_switches=reply.involuntary_switches + sum(one.involuntary_switches for one in used),
    )


def load_timeout_s(expected_ns: float) -> float:
    """Return how long a LoadGen run that is expected to take so long may take at most."""
    return LOAD_TIMEOUT_S + 10 * expected_ns / 1e9


def read_result(case: Case, settings: dict[str, float], folder: Path) -> LoadResult:
    """Return the result of a LoadGen run from its log; raises WorkerError."""
    try:
        return load_result(case, settings, read_details(folder))
    except DetailLogError as error:
        raise WorkerError(str(error)) from error
