"""Set what arms reach beside what the machine can do (the roofline model: Williams, Waterman & Patterson 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.records import PRODUCT, TRAFFIC
from bench.suite.arms import TRAINING

if TYPE_CHECKING:
    from bench.analysis.speedups import Run
    from bench.records import Roof
    from bench.suite.arms import Arm, Case

ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
COMPUTE, MEMORY = "compute", "traffic"


@dataclass(frozen=True)
class Limit:
    """What bounds an arm on a case, for one batch.

    `operations` are two per multiply-add of the specification. `traffic_bytes` are what no implementation can avoid:
    the parameters at the arm's precision, the input and the logits in fp32.
    """

    operations: int
    traffic_bytes: int
    operations_per_s: float
    bytes_per_s: float

    @property
    def time_ns(self) -> float:
        """Return the least time for a batch."""
        return max(self._compute_ns, self._traffic_ns)

    @property
    def bound(self) -> str:
        """Return what takes the longer."""
        return COMPUTE if self._compute_ns >= self._traffic_ns else MEMORY

    @property
    def intensity(self) -> float:
        """Return the operations per byte."""
        return self.operations / self.traffic_bytes

    @property
    def _compute_ns(self) -> float:
        return self.operations / self.operations_per_s * 1e9

    @property
    def _traffic_ns(self) -> float:
        return self.traffic_bytes / self.bytes_per_s * 1e9


@dataclass(frozen=True)
class RooflinePoint:
    """How near an arm comes to its limit on a case: operations per second, and the share of the limit."""

    arm: Arm
    limit: Limit
    operations_per_s: float
    share: float


def reaches(run: Run, case: Case) -> list[RooflinePoint]:
    """Return a row for each arm of a case that was measured and has a limit; none where arms train."""
    arms = [arm for arm in run.lineup(case) if not arm.replica]
    limits = {each: limit_of(run, case, each) for each in {arm.precision for arm in arms}}
    rows = (_reach(run, arm, case, limit) for arm in arms if (limit := limits[arm.precision]))
    return [row for row in rows if row]


def _reach(run: Run, arm: Arm, case: Case, limit: Limit) -> RooflinePoint | None:
    typical = run.typical_latency_ns(arm, case)
    if typical is None:
        return None
    return RooflinePoint(arm, limit, limit.operations / typical * 1e9, limit.time_ns / typical)


def limit_of(run: Run, case: Case, precision: str) -> Limit | None:
    """Return the limit of a case at a precision, or None where it is not known."""
    work = run.info["models"].get(case.model, {}).get("work")
    peak = peak_operations_per_s(run, precision, run.threads(case))
    if case.scenario == TRAINING or work is None or peak is None:
        return None
    elements = work["input_elements"] + work["output_elements"]
    traffic = work["parameters"] * ELEMENT_BYTES[precision] + case.batch_size * elements * ELEMENT_BYTES["fp32"]
    speed = bytes_per_s(run, traffic, run.threads(case))
    return Limit(2 * work["multiply_adds"] * case.batch_size, traffic, peak, speed) if speed else None


def peak_operations_per_s(run: Run, precision: str, threads: int) -> float | None:
    """Return the rate of the fastest product that was seen."""
    found = [roof for roof in _roofs(run, PRODUCT, threads) if roof.precision == precision]
    return max(map(_rate, found), default=None)


def bytes_per_s(run: Run, working_set_bytes: int, threads: int) -> float | None:
    """Return the rate of the traffic to the smallest working set that is as large, or the largest there is."""
    rates = traffic_rates(run, threads)
    large_enough = [rate for size, rate in rates.items() if size >= working_set_bytes]
    return next(iter([*large_enough, *reversed(rates.values())]), None)


def traffic_rates(run: Run, threads: int) -> dict[int, float]:
    """Return {working set in bytes: bytes per second, the highest that was seen}, smallest first."""
    found = sorted(_roofs(run, TRAFFIC, threads), key=lambda roof: (roof.size, _rate(roof)))
    return {roof.size: _rate(roof) for roof in found}


def _roofs(run: Run, what: str, threads: int) -> list[Roof]:
    return [roof for roof in run.roofs if (roof.what, roof.threads) == (what, threads)]


def _rate(roof: Roof) -> float:
    """Return what all members did per second."""
    return sum(roof.work * count / wall * 1e9 for count, wall in zip(roof.counts, roof.walls_ns, strict=True))
