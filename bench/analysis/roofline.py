"""How close arms come to the limits of the machine (the roofline model: Williams, Waterman & Patterson 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.records import PRODUCT, TRAFFIC
from bench.suite.arms import LOADGEN, TRAINING

if TYPE_CHECKING:
    from bench.analysis.run import Run
    from bench.records import Roof
    from bench.suite.arms import Arm, Case

PRECISION_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
COMPUTE, MEMORY = "compute", "traffic"


@dataclass(frozen=True)
class Limit:
    """The limit of an arm on a case, for one batch.

    `operations` are two per multiply-add of the specification. `traffic_bytes` are what no implementation can avoid:
    the parameters at the arm's precision, the input and the logits in fp32.
    """

    operations: int
    traffic_bytes: int
    operations_per_s: float
    bytes_per_s: float

    @property
    def time_ns(self) -> float:
        return max(self._compute_ns, self._traffic_ns)

    @property
    def bound(self) -> str:
        return COMPUTE if self._compute_ns >= self._traffic_ns else MEMORY

    @property
    def intensity(self) -> float:
        return self.operations / self.traffic_bytes

    @property
    def _compute_ns(self) -> float:
        return self.operations / self.operations_per_s * 1e9

    @property
    def _traffic_ns(self) -> float:
        return self.traffic_bytes / self.bytes_per_s * 1e9


@dataclass(frozen=True)
class RooflinePoint:
    """How close an arm comes to its limit: its operations per second, and the share of the limit."""

    arm: Arm
    limit: Limit
    operations_per_s: float
    share: float


def roofline_points(run: Run, case: Case) -> list[RooflinePoint]:
    """Return a point for each measured arm of a case that has a limit; none if arms train."""
    arms = [arm for arm in run.participants(case) if not arm.replica]
    limits = {precision: limit_of(run, case, precision) for precision in {arm.precision for arm in arms}}
    return [
        RooflinePoint(arm, limit, limit.operations / typical_ns * 1e9, limit.time_ns / typical_ns)
        for arm in arms
        if (limit := limits[arm.precision]) and (typical_ns := run.typical_latency_ns(arm, case)) is not None
    ]


def limit_of(run: Run, case: Case, precision: str) -> Limit | None:
    """Return the limit of a case at a precision, or None if it is not known."""
    model = run.info.models.get(case.model)
    peak = peak_operations_per_s(run, precision, run.threads(case))
    if case.scenario in (TRAINING, *LOADGEN) or model is None or model.work is None or not peak:
        return None
    work = model.work
    elements = work.input_elements + work.output_elements
    traffic = work.parameters * PRECISION_BYTES[precision] + case.batch_size * elements * PRECISION_BYTES["fp32"]
    speed = bytes_per_s(run, traffic, run.threads(case))
    return Limit(2 * work.multiply_adds * case.batch_size, traffic, peak, speed) if speed else None


def peak_operations_per_s(run: Run, precision: str, threads: int) -> float | None:
    return max((_rate(roof) for roof in _roofs(run, PRODUCT, threads) if roof.precision == precision), default=None)


def bytes_per_s(run: Run, working_set_bytes: int, threads: int) -> float | None:
    """Return the memory traffic of the smallest measured working set that is large enough, else of the largest."""
    rates = traffic_rates(run, threads)
    large_enough = [rate for size, rate in rates.items() if size >= working_set_bytes]
    return next(iter([*large_enough, *reversed(rates.values())]), None)


def traffic_rates(run: Run, threads: int) -> dict[int, float]:
    """Return the highest measured bytes per second by working set in bytes, smallest working set first."""
    roofs = sorted(_roofs(run, TRAFFIC, threads), key=lambda roof: (roof.size, _rate(roof)))
    return {roof.size: _rate(roof) for roof in roofs}


def _roofs(run: Run, what: str, threads: int) -> list[Roof]:
    return [roof for roof in run.roofs if (roof.what, roof.threads) == (what, threads)]


def _rate(roof: Roof) -> float:
    """Return the work of all workers together per second."""
    return sum(roof.work * count / wall * 1e9 for count, wall in zip(roof.counts, roof.walls_ns, strict=True))
