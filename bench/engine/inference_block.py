"""Blocks whose arms answer batches, alternated in slices."""

from __future__ import annotations

import hashlib
from statistics import median
from typing import TYPE_CHECKING, Any

from backends.registry import stacks
from bench.analysis import gates
from bench.clock import now_ns
from bench.engine.block import LiveBlock
from bench.engine.session import SLICE_TIMEOUT_S, compare, predict, read_back
from bench.engine.team import BEGIN_TOGETHER_NS
from bench.engine.workers import WorkerError
from bench.records import Check, Slice, batch_interval_ns
from bench.suite.arms import LATENCY
from bench.suite.plan import LEAD_IN, WARM_UP_SLICE_NS
from bench.worker.timing import is_level

if TYPE_CHECKING:
    from bench.engine.team import WorkerGroup
    from bench.suite.arms import Arm, Case


class AnsweringBlock(LiveBlock):
    """A block whose arms answer batches, alternated in slices."""

    def prepare(self, team: WorkerGroup, arm: Arm, case: Case) -> None:
        """Build the arm's session."""
        self.rig.build(team, arm, case, self.cores)

    def check(self, arm: Arm, case: Case) -> None:
        """Compare the outputs with the oracle's and with those of the proof pass, and warm up."""
        rig, team = self.rig, self.teams[arm.id]
        images = min(gates.CHECK_IMAGES, len(rig.data.test_labels))
        found, expected = predict(rig, team, case, images), rig.proven[arm.original.id, case.id][:images]
        for logits in found:
            repeated = float((logits.argmax(axis=1) == expected).mean())
            oracle = compare(logits, rig.oracle[case.model][:images])
            fault = gates.parity_fault(arm.precision, *oracle, "oracle") or gates.repetition_fault(repeated)
            if fault:
                raise WorkerError(f"proof failed: {fault}")
        medians = self._warm_up(arm, case)
        rig.journal.append(
            Check(
                arm=arm.id,
                case=case.id,
                block=self.block.number,
                images=images,
                labels_sha256=hashlib.sha256(bytes(found[0].argmax(axis=1).tolist())).hexdigest(),
                max_abs_logit_diff=compare(found[0], rig.oracle[case.model][:images])[0],
                warm_up_medians_ns=tuple(medians),
                steady=is_level(medians),
            )
        )

    def _warm_up(self, arm: Arm, case: Case) -> list[int]:
        """Run short slices until their medians are level, or until the limit; return the medians."""
        medians: list[int] = []
        deadline = now_ns() + self.rig.plan.preset.warm_up_limit_ns
        while not is_level(medians) and now_ns() < deadline:
            medians.append(int(self._typical(case, self._slice(arm, case, WARM_UP_SLICE_NS, 0))))
        return medians

    def _typical(self, case: Case, answers: list[dict[str, Any]]) -> float:
        """Return what a slice says: the median latency, or the time per batch of all members together."""
        if case.scenario == LATENCY:
            return float(median(sample for answer in answers for sample in answer["samples_ns"]))
        counts = [len(answer["samples_ns"]) for answer in answers]
        return batch_interval_ns(counts, [answer["wall_ns"] for answer in answers])

    def _slice(self, arm: Arm, case: Case, budget_ns: int, lead_in: int) -> list[dict[str, Any]]:
        """Let the arm's team work; return each member's answer."""
        asynchronous, team = stacks()[arm.stack].variants[arm.variant].asynchronous, self.teams[arm.id]
        request = {
            "case": case.id,
            "asynchronous": asynchronous,
            "budget_ns": budget_ns,
            "lead_in": max(lead_in, 2 * self.rig.plan.threads_of(case)) if asynchronous else lead_in,
            "begin_ns": now_ns() + BEGIN_TOGETHER_NS if len(team.members) > 1 else 0,
        }
        return team.request("slice", SLICE_TIMEOUT_S, **request)

    def take_turn(self, number: int, position: int, arm: Arm, case: Case) -> None:
        """Time one slice."""
        answers, meanwhile = self.watched(arm, lambda: self._slice(arm, case, self.rig.plan.preset.slice_ns, LEAD_IN))
        self.store(
            Slice(
                arm=arm.id,
                case=case.id,
                block=self.block.number,
                round=number,
                position=position,
                samples_ns=tuple(sample for answer in answers for sample in answer["samples_ns"]),
                counts=tuple(len(answer["samples_ns"]) for answer in answers),
                walls_ns=tuple(answer["wall_ns"] for answer in answers),
                cpu_ns=sum(answer["cpu_ns"] for answer in answers),
                involuntary_switches=sum(answer["involuntary_switches"] for answer in answers),
                **meanwhile,
            )
        )

    def evidence(self, arm: Arm, case: Case) -> dict[str, Any]:
        """Return what the arm's process reads back."""
        return read_back(self.rig, self.teams[arm.id], arm, case)
