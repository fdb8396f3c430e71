"""Find the best split of its cores for each arm that may have its own, before all proofs and blocks."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from bench.clock import now_ns
from bench.engine.block import MAX_OVERRUN, MIN_ROUNDS, run_slice, typical_ns, warm_up_medians_ns
from bench.engine.build import build_sessions, converted_files, start_group
from bench.engine.workers import WorkerError, threads_for, wait_until_idle
from bench.machine.counters import quiet_core_sets
from bench.records import Choice, SplitTrial
from bench.suite.arms import BEST_THREADS, Split
from bench.suite.schedule import balanced_orders
from bench.suite.suite import takes_part
from bench.suite.variables import restart_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from bench.console import Steps
    from bench.engine.context import RunContext, Tally
    from bench.engine.workers import WorkerGroup
    from bench.suite.arms import Arm, Case
    from bench.suite.plan import Plan

# Each order is followed by its reverse, so the number of rounds is even.
ROUNDS, SLICE_NS = 8, 50_000_000
# Progress weight of one process or group of a search: seconds on two cores.
SEARCH_WEIGHT = 3.0


@dataclass(frozen=True)
class Search:
    """The search for an arm's best splits on some cases; the processes of a split serve all of them."""

    arm: Arm
    cases: tuple[Case, ...]
    splits: tuple[Split, ...]

    def weight(self, plan: Plan) -> float:
        return SEARCH_WEIGHT * len(self.splits) * plan.preset.search_processes


def searches(plan: Plan) -> list[Search]:
    """Return the searches of a plan; a replica has its original's splits."""
    found = []
    undecided = [case for case in plan.suite.cases if case.threads == BEST_THREADS]
    for key in dict.fromkeys((case.model, case.scenario) for case in undecided):
        cases = tuple(case for case in undecided if (case.model, case.scenario) == key)
        arms = [arm for arm in plan.arms if arm == arm.original and takes_part(arm, cases[0])]
        found += [Search(arm, cases, plan.splits_of(cases[0])) for arm in arms]
    return found


def choose_splits(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Choose the split of each arm's cores on each case that leaves it open, and store it with all times."""
    rng = random.Random(context.plan.seed)
    for search in searches(context.plan):
        contest = Contest(context, tally, search, rng)
        if len(search.splits) > 1:
            try:
                # Alone on the machine, because the time of a conversion is stored.
                converted_files(context, tally, search.arm, search.cases[0])
            except WorkerError as error:
                contest.failures |= dict.fromkeys(search.splits, error)
            for _ in range(context.plan.preset.search_processes):
                contest.measure()
        for case in search.cases:
            _choose(tally, search, case, contest)
        steps.step(search.weight(context.plan), f"{search.arm.label}: best threads", "search")


def _choose(tally: Tally, search: Search, case: Case, contest: Contest) -> None:
    trials = [
        SplitTrial(split.streams, split.threads, (), str(contest.failures[split]))
        if split in contest.failures
        else SplitTrial(split.streams, split.threads, tuple(contest.times_ns[case, split]))
        for split in search.splits
    ]
    best = fastest(trials) if len(trials) > 1 else trials[0]
    if best is None:
        tally.add_failure(search.arm, case, None, contest.failures[search.splits[0]])
        return
    tally.splits[search.arm.id, case.id] = Split(best.streams, best.threads)
    tally.journal.append(Choice(search.arm.id, case.id, best.streams, best.threads, tuple(trials)))


def fastest(trials: Sequence[SplitTrial]) -> SplitTrial | None:
    """Return the trial with the shortest time, of equal ones that with the fewest threads; None if all failed."""
    times = [(time_ns, trial.threads, trial) for trial in trials if (time_ns := trial.time_ns) is not None]
    return min(times, key=lambda row: row[:2])[2] if times else None


def _wait_for(build: Future[None], _: WorkerGroup) -> None:
    build.result()


class Contest:
    """The processes of all splits of a search, which take turns; a split that fails leaves it."""

    def __init__(self, context: RunContext, tally: Tally, search: Search, rng: random.Random) -> None:
        self.failures: dict[Split, WorkerError] = {}
        # A time for each round, by process.
        self.times_ns: dict[tuple[Case, Split], list[tuple[int, ...]]] = defaultdict(list)
        self._context, self._tally, self._search, self._rng = context, tally, search, rng
        self._groups: dict[Split, WorkerGroup] = {}

    def measure(self) -> None:
        """Start fresh processes for each split, warm them up, and time them in rounds."""
        limit_ns = self._context.plan.preset.warm_up_limit_ns
        try:
            self._build()
            for case in self._search.cases:
                for split in self._search.splits:
                    self._attempt(split, partial(warm_up_medians_ns, self._search.arm, case, split, limit_ns))
                self._take_turns(case)
        finally:
            for group in self._groups.values():
                group.stop()
            self._groups.clear()

    def _build(self) -> None:
        context, arm = self._context, self._search.arm
        splits = [split for split in self._search.splits if split not in self.failures]
        cores = quiet_core_sets({split.cores for split in splits}) if splits else {}
        with threads_for(self._groups, len(splits) + 1) as pool:
            for split in splits:
                # What a search compiles must not shorten the cold start, which finds the arm's own folder empty.
                caches = context.scratch / "searches" / f"{arm.slug}-{split.streams}-{split.threads}"
                try:
                    # In the main thread: PR_SET_PDEATHSIG kills a worker when the thread that started it ends.
                    self._groups[split] = start_group(context, arm, split, caches, restart_variables())
                except WorkerError as error:
                    self.failures[split] = error
            builds = {
                split: pool.submit(self._build_group, split, group, cores[split.cores])
                for split, group in self._groups.items()
            }
            for split, build in builds.items():
                self._attempt(split, partial(_wait_for, build))

    def _build_group(self, split: Split, group: WorkerGroup, cores: Sequence[int]) -> None:
        group.wait_until_ready()
        for case in self._search.cases:
            build_sessions(self._context, self._tally, group, self._search.arm, case, split, cores, reported=False)

    def _take_turns(self, case: Case) -> None:
        planned_ns, begin = ROUNDS * len(self._groups) * SLICE_NS, now_ns()
        rounds = defaultdict[Split, list[int]](list)
        for number, order in enumerate(islice(balanced_orders(self._search.splits, self._rng), ROUNDS)):
            if number >= MIN_ROUNDS and now_ns() - begin > MAX_OVERRUN * planned_ns:
                break
            for split in order:
                self._attempt(split, partial(self._take_turn, case, split, rounds[split]))
        for split in self._groups:
            self.times_ns[case, split].append(tuple(rounds[split]))

    def _take_turn(self, case: Case, split: Split, times_ns: list[int], group: WorkerGroup) -> None:
        others = [pid for other in self._groups.values() if other is not group for pid in other.pids]
        wait_until_idle(others, others)
        times_ns.append(round(typical_ns(case, run_slice(self._search.arm, case, split, SLICE_NS, group))))

    def _attempt(self, split: Split, work: Callable[[WorkerGroup], object]) -> None:
        """Do `work` with the processes of a split, unless it has left the contest."""
        if group := self._groups.get(split):
            try:
                work(group)
            except WorkerError as error:
                self.failures[split] = error
                self._groups.pop(split).stop()
