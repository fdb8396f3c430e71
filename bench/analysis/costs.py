"""What an arm costs its user beside time per answer: start, memory, disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.analysis.speedups import Run
    from bench.records import Start
    from bench.suite.arms import Arm, Case


@dataclass(frozen=True)
class Cost:
    """Costs of an arm; times in ns, None where they were not measured.

    `start` is that of a process alone on the machine with empty compile caches, `convert_ns` what making its files took
    before, `restart_ns` what import, build and first call take with filled caches. `memory_bytes` is the peak resident
    set of all of its processes together; `installed_bytes` the size of its environment; `saved_bytes` that of the model
    as a user would ship it. `break_even_images` is the number of images after which a faster arm has paid for a longer
    start than the first of its baselines: zero when it starts no slower, infinite when it is no faster.
    """

    start: Start | None
    convert_ns: int
    cold_start_ns: int | None
    restart_ns: int | None
    memory_bytes: int | None
    installed_bytes: int | None
    saved_bytes: int | None
    break_even_images: float | None


def cost(run: Run, arm: Arm, case: Case) -> Cost:
    """Return the costs of an arm on a case; its start is that on the first case of the same model and scenario."""
    proof = run.proof(arm, case)
    environment = run.info["environments"].get(run.info["stacks"][arm.stack]["environment"], {})
    start, again = (_start(run, arm, case, cached=cached) for cached in (False, True))
    caches = run.info["stacks"][arm.stack]["compiles"] and "compile" in arm.variant
    return Cost(
        start=start,
        convert_ns=_convert_ns(run, arm, case),
        cold_start_ns=_cold_start_ns(run, arm, case),
        restart_ns=again.total_ns if again else None if caches or start is None else start.total_ns,
        memory_bytes=proof.memory_bytes if proof else None,
        installed_bytes=environment.get("bytes"),
        saved_bytes=proof.saved_bytes if proof else None,
        break_even_images=_break_even_images(run, arm, case),
    )


def _start(run: Run, arm: Arm, case: Case, *, cached: bool) -> Start | None:
    """Return the first start of an arm's process in the proof pass; a replica's is its original's."""
    cases = [each for each in run.cases if each.group == case.group]
    starts = [start for each in cases for start in run.starts.get((arm.original.id, each.id), [])]
    return next((start for start in starts if start.cached == cached), None)


def _convert_ns(run: Run, arm: Arm, case: Case) -> int:
    conversion = run.conversions.get((arm.original.id, case.model))
    return conversion.convert_ns if conversion else 0


def _cold_start_ns(run: Run, arm: Arm, case: Case) -> int | None:
    """Return the time from nothing but weights to the first answer: convert, import, build, first call."""
    start = _start(run, arm, case, cached=False)
    return None if start is None else _convert_ns(run, arm, case) + start.total_ns


def _break_even_images(run: Run, arm: Arm, case: Case) -> float | None:
    baseline = next((pair.baseline for pair in run.pairs if pair.arm == arm and pair.case == case), None)
    if baseline is None or arm.replica:
        return None
    start, start_before = _cold_start_ns(run, arm, case), _cold_start_ns(run, baseline, case)
    latency, latency_before = run.typical_latency_ns(arm, case), run.typical_latency_ns(baseline, case)
    if start is None or start_before is None or latency is None or latency_before is None:
        return None
    longer, gain = start - start_before, (latency_before - latency) / case.batch_size
    return max(0.0, longer / gain) if gain > 0 else float("inf")
