"""Blocks of LoadGen: every process does one LoadGen run, one process after the other."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from bench.engine.block import InferenceBlock
from bench.engine.workers import WorkerError
from bench.journal import LOGS
from bench.loadgen.detail_log import DetailLogError, load_result, read_details
from bench.loadgen.settings import LOADED_SAMPLES, LOADGEN_NAMES, PERFORMANCE_ONLY, performance_settings
from bench.records import LoadRun
from bench.suite.arms import OFFLINE
from bench.suite.suite import variant_of
from bench.worker.loadgen import ACCURACY_ONLY
from bench.worker.messages import RunLoad

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bench.engine.context import RunContext
    from bench.records import LoadResult
    from bench.suite.arms import Arm, Case
    from bench.suite.schedule import Round

# LoadGen's log of a run, its start and its end: seconds beside the run itself.
LOAD_TIMEOUT_S = 120


class LoadGenBlock(InferenceBlock):
    """Alternates arms in whole LoadGen runs."""

    def leaves_out(self, _: Round) -> bool:
        return False

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        plan, seed = self.context.plan, self.context.plan.seed + self.block.number
        expected_ns = median(self.checks[arm.id, case.id].warm_up_medians_ns)
        images = len(self.context.data.test_labels)
        settings = performance_settings(case, plan.preset.load_ms, expected_ns, images, seed)
        folder = load_folder(self.context, arm, case, f"block-{self.block.number}")
        request = load_request(
            arm, case, PERFORMANCE_ONLY, settings, images, self.context.folder / folder, self.cores[arm.id]
        )
        group = self.groups[arm.id]
        (reply,), conditions = self.observe(arm, lambda: group.request(request, load_timeout_s(plan.preset.load_ms)))
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
    )


def load_timeout_s(load_ms: int) -> float:
    return LOAD_TIMEOUT_S + 10 * load_ms / 1e3


def read_result(case: Case, settings: dict[str, float], folder: Path) -> LoadResult:
    """Return the result of a LoadGen run from its log; raises WorkerError."""
    try:
        return load_result(case, settings, read_details(folder))
    except DetailLogError as error:
        raise WorkerError(str(error)) from error
