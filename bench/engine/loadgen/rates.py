"""Search for the highest rate of queries that each arm can serve under the bound of the latency."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench.engine.block import warm_up_medians_ns
from bench.engine.build import start_group
from bench.engine.loadgen.block import build_all, load_folder, load_request, load_timeout_s, read_result, run_load_in
from bench.engine.loadgen.passes import accuracy_runs
from bench.engine.workers import WorkerError
from bench.loadgen.search import FIRST_SHARE, MOST_RUN_S, WINNER_RUNS, highest_valid_rate, next_rate
from bench.loadgen.settings import PERCENTILES, PERFORMANCE_ONLY, expected_run_ns, performance_settings
from bench.machine.counters import quiet_cores
from bench.records import LoadProbe, LoadSearch
from bench.suite.arms import SERVER, Arm, Case

if TYPE_CHECKING:
    from bench.console import Steps
    from bench.engine.context import RunContext, Tally
    from bench.suite.plan import Plan

# Progress weights: about how many runs a search takes, and the start of a process in seconds on two cores.
USUAL_RUNS, PROBE_START_WEIGHT = 11, 2.5


@dataclass
class RateSearch:
    """The search of an arm. The `first` rate follows from the warm-up of its first process."""

    arm: Arm
    case: Case
    first: float = 0.0
    probes: list[LoadProbe] = field(default_factory=list)


def rate_searches(plan: Plan) -> list[RateSearch]:
    return [RateSearch(arm, case) for arm, case in accuracy_runs(plan) if case.scenario == SERVER]


def search_weight(plan: Plan) -> float:
    return USUAL_RUNS * (PROBE_START_WEIGHT + plan.preset.load_ms / 1e3)


def find_rates(context: RunContext, tally: Tally, steps: Steps) -> None:
    """Store the highest valid rate of each arm; the arms take turns, each run in a fresh process.

    An arm without such a rate can't take part in the blocks.
    """
    rng, least = random.Random(context.plan.seed), PERCENTILES[SERVER][1] / MOST_RUN_S
    searches = rate_searches(context.plan)
    waiting = [search for search in searches if (search.arm.id, search.case.id) in tally.labels]
    left_out = [search for search in searches if search not in waiting]
    while waiting:
        for search in rng.sample(waiting, len(waiting)):
            arm, case = search.arm, search.case
            try:
                search.probes.append(_probe(context, tally, search, least))
                if next_rate(search.probes, search.first, least) is not None:
                    continue
                _store(context, tally, search)
            except WorkerError as error:
                tally.labels.pop((arm.id, case.id))
                tally.add_failure(arm, case, None, error)
            waiting.remove(search)
            steps.step(search_weight(context.plan), f"{arm.label}: highest rate, {case.label}", "rates")
    for search in left_out:
        steps.step(search_weight(context.plan), f"{search.arm.label}: no search, {search.case.label}", "rates")


def _store(context: RunContext, tally: Tally, search: RateSearch) -> None:
    rate, bound_us = highest_valid_rate(search.probes), context.plan.suite.server_bound_us or 0
    tally.journal.append(LoadSearch(search.arm.id, search.case.id, 1000 * bound_us, rate, tuple(search.probes)))
    if not rate:
        last = search.probes[-1]
        raise WorkerError(
            f"no rate of queries was VALID {WINNER_RUNS} times in {len(search.probes)} runs, with 99 % of latencies "
            f"up to {bound_us} µs; last: {', '.join(last.reasons) or 'VALID'} at {last.rate:g}/s"
        )
    tally.rates[search.arm.id, search.case.id] = rate


def _probe(context: RunContext, tally: Tally, search: RateSearch, least: float) -> LoadProbe:
    """Return the verdict on the next rate of a search; raises WorkerError."""
    arm, case, plan = search.arm, search.case, context.plan
    split = context.split_of(tally, arm, case)
    cores = tuple(quiet_cores(split.cores))
    images, number = len(context.data.test_labels), len(search.probes) + 1
    with start_group(context, arm, split, context.caches(arm, case)) as group:
        group.wait_until_ready()
        build_all(context, tally, group, arm, case, cores)
        expected_ns = median(warm_up_medians_ns(arm, case, split, plan.preset.warm_up_limit_ns, group))
        if not search.first:
            search.first = max(least, FIRST_SHARE * 1e9 / expected_ns)
        rate = next_rate(search.probes, search.first, least)
        if rate is None:
            raise ValueError("the search has ended")
        bound_ns = 1000 * (plan.suite.server_bound_us or 0)
        # Every run has other queries, the same for all arms.
        seed = plan.seed + number
        settings = performance_settings(case, plan.preset.load_ms, expected_ns, images, seed, rate, bound_ns)
        folder = load_folder(context, arm, case, f"search-{number}")
        request = load_request(arm, case, PERFORMANCE_ONLY, settings, images, context.folder / folder, cores)
        run_load_in(group, request, load_timeout_s(expected_run_ns(case, settings, expected_ns)))
    result = read_result(case, settings, context.folder / folder)
    return LoadProbe(rate, result.valid, result.time_ns, result.reasons, folder)
