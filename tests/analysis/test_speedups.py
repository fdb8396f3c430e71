"""From a journal to figures: exact where the journal is, and never more than it holds."""

import json
import math
import random
from dataclasses import asdict, replace

import pytest

from bench.analysis import gates
from bench.analysis.attribution import attributions
from bench.analysis.costs import cost
from bench.analysis.speedups import Run
from bench.journal import Journal
from bench.records import Check, End, Evidence, Failure, Parity, Proof, Reference, Slice, Start
from bench.report import tables
from bench.report.summary import attribution_sentence
from bench.suite.arms import Arm, Case
from bench.suite.environments import find_stack
from models.errors import UserError

CASE = Case("cnn-small", "latency", 1)
EAGER, TWIN, COMPILE, JIT = (
    Arm("pytorch", "eager"), Arm("pytorch", "eager", replica=True), Arm("pytorch", "compile"), Arm("ipex", "jit"),
)  # fmt: skip
BLOCKS, ROUNDS = 20, 3
SLICE = Slice("", CASE.id, 0, 0, 0, (), (1,), (10**6,), 10**6, 0, 0, 0, 0, 0, 0.0, None)


class Story:
    """A run that is told instead of measured: latencies in ns by arm, and what else happened."""

    def __init__(self, folder, *, preset="standard", mismatches=None, data="fashion-mnist") -> None:
        self.folder, self.records, self.random = folder, [], random.Random(7)
        self.info = {
            "schema": 2, "command": ["bench", "run"], "started": "2026-01-01T00:00:00+00:00", "git_commit": None,
            "suite": {"name": "told", "summary": "s"}, "preset": preset, "seed": 1, "threads": 2,
            "arms": [asdict(arm) for arm in (EAGER, TWIN, COMPILE, JIT)], "cases": [asdict(CASE)],
            "pairs": [
                {"arm": arm.id, "baseline": baseline.id, "case": CASE.id, "candidate": arm == JIT}
                for arm, baseline in ((TWIN, EAGER), (COMPILE, EAGER), (JIT, EAGER), (JIT, COMPILE))
            ],
            "ladders": [], "lineups": {CASE.id: [arm.id for arm in (EAGER, TWIN, COMPILE, JIT)]},
            "schedule": [], "protocol": {"slice_ns": 10**6}, "settings": {}, "restart_settings": {},
            "machine": {"cpu": "c", "cores": 2, "usable_cores": 2},
            "stacks": {
                name: {"environment": find_stack(name).environment, "baselines": find_stack(name).baselines,
                       "compiles": True}
                for name in ("pytorch", "ipex")
            },
            "environments": {"vanilla": {"bytes": 2}, "ipex": {"bytes": 3}}, "missing": {},
            "mismatches": mismatches or {},
            "data": {"name": data, "digest": "d"},
            "models": {"cnn-small": {"trained": True}},
        }  # fmt: skip

    def measure(self, *, noise=0.005, **latencies) -> "Story":
        """Add a proof of each arm, and slices of one sample whose latencies scatter by `noise` from block to block."""
        self.records.append(Reference(CASE.model, "0" * 10, "0" * 9 + "1"))
        for arm, name in ((EAGER, "eager"), (TWIN, "twin"), (COMPILE, "compile"), (JIT, "jit")):
            if not arm.replica:
                self.records.append(Start(arm.id, CASE.id, False, 10, 20, 30 if arm == EAGER else 1000))
                proof = Proof(arm.id, CASE.id, "fp32", 2, ("k",), {"v": "1"}, 10, "0" * 10, 0.9, 1e-6, 1.0, 5, 7)
                self.records.append(proof)
            for block in range(1, BLOCKS + 1):
                latency = latencies[name] * math.exp(self.random.gauss(0, noise))
                for number in range(ROUNDS):
                    samples = (round(latency),)
                    self.records.append(replace(SLICE, arm=arm.id, block=block, round=number, samples_ns=samples))
                self.records.append(Evidence(arm.id, CASE.id, block, "fp32", 2, ("k",)))
        for arm, baseline in ((TWIN, EAGER), (COMPILE, EAGER), (JIT, EAGER), (JIT, COMPILE)):
            self.records.append(Parity(arm.id, baseline.id, CASE.id, 1e-6, 1.0))
        return self

    def change(self, kind, where, **new) -> "Story":
        """Replace fields of the records of a kind that `where` holds for."""
        self.records = [
            replace(each, **new) if isinstance(each, kind) and where(each) else each for each in self.records
        ]
        return self

    def read(self) -> Run:
        """Write the folder of the run and read it back."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(self.info))
        with Journal(self.folder / "journal.jsonl") as journal:
            for record in (*self.records, End("complete", 1)):
                journal.append(record)
        return Run(self.folder)


@pytest.fixture
def story(tmp_path):
    """Return a story in which IPEX is twice as fast as eager and a third faster than compiled PyTorch."""
    return Story(tmp_path / "run").measure(eager=200_000, twin=200_000, compile=134_000, jit=100_000)


def row(run, arm, baseline):
    """Return one comparison's row."""
    return next(each for each in run.speedups if (each.pair.arm, each.pair.baseline) == (arm, baseline))


def test_a_clear_difference_is_found_with_its_size(story) -> None:
    found = row(story.read(), JIT, EAGER)
    assert found.verdict.word == gates.FASTER
    assert found.speedup == pytest.approx(2, rel=0.01)
    assert found.interval.low < 2 < found.interval.high
    assert found.estimate.blocks == BLOCKS


def test_the_primary_comparison_is_the_one_with_the_fastest_baseline_and_comes_first(story) -> None:
    first, *others = story.read().speedups
    assert (first.pair.arm, first.pair.baseline, first.primary) == (JIT, COMPILE, True)
    assert not any(row.primary for row in others)


def test_the_choice_of_the_baseline_is_paid_for_by_holm(story) -> None:
    run = story.read()
    compared = [row(run, JIT, baseline).estimate.p_value for baseline in (EAGER, COMPILE)]
    assert compared == [2 * 2 / 2**BLOCKS] * 2


def test_the_twin_is_equivalent(story) -> None:
    run = story.read()
    assert row(run, TWIN, EAGER).verdict.word == gates.EQUIVALENT


def test_a_ratio_is_taken_within_its_round(tmp_path) -> None:
    """A machine that halves its speed for all arms alike from some round on changes no ratio."""
    told = Story(tmp_path / "run").measure(noise=0, eager=200_000, twin=200_000, compile=134_000, jit=100_000)
    told.records = [
        replace(each, samples_ns=tuple(2 * sample for sample in each.samples_ns))
        if isinstance(each, Slice) and each.block % 2 and each.round
        else each
        for each in told.records
    ]
    assert set(told.read().log_ratios(row(told_run := Run(told.folder), JIT, EAGER).pair).values()) == {math.log(2)}
    assert told_run.band(row(told_run, JIT, EAGER).pair) == 0


@pytest.mark.parametrize(("foreign_ns", "marked"), [(150_000, {(CASE.id, 3, 1)}), (90_000, set())])
def test_a_round_in_which_others_used_over_5_percent_of_the_cores_is_marked(story, foreign_ns, marked) -> None:
    """Turns of a millisecond on two cores each."""
    story.change(Slice, lambda each: (each.block, each.round) == (3, 1), foreign_ns=foreign_ns)
    assert story.read().marked_rounds == marked


def test_what_others_used_is_a_share_of_the_time_in_which_the_machine_was_watched(story) -> None:
    story.change(Slice, lambda each: (each.block, each.round) == (3, 1), foreign_ns=150_000, watched_ns=2_000_000)
    assert story.read().marked_rounds == set()


def test_coarse_ticks_cancel_within_a_round(story) -> None:
    run = story.change(Slice, lambda each: each.arm == JIT.id, foreign_ns=300_000).change(
        Slice, lambda each: each.arm != JIT.id, foreign_ns=-100_000
    )
    assert run.read().marked_rounds == set()


def test_a_process_that_did_not_prove_its_work_contributes_no_time(story) -> None:
    story.change(Slice, lambda each: each.arm == JIT.id and each.block == 3, samples_ns=(1,))
    story.records = [
        each for each in story.records if not (isinstance(each, Evidence) and each.arm == JIT.id and each.block == 3)
    ]
    story.records.append(Failure(JIT.id, CASE.id, 3, "died"))
    run = story.read()
    assert 3 not in run.log_ratios(row(run, JIT, EAGER).pair)
    assert row(run, JIT, EAGER).verdict.word == gates.FASTER  # one of twenty is within the five percent


def test_more_than_five_percent_of_failed_blocks_withhold_the_verdict(story) -> None:
    story.records = [
        Failure(JIT.id, CASE.id, each.block, "died")
        if isinstance(each, Evidence) and each.arm == JIT.id and each.block in (3, 4)
        else each
        for each in story.records
    ]
    found = row(story.read(), JIT, EAGER).verdict
    assert found.word == gates.WITHHELD
    assert "2 of 20 blocks failed (died)" in found.reason


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        (Proof, {"max_abs_logit_diff": 0.1}, "oracle's by 0.1"),
        (Proof, {"agreement": 0.99}, "agree with the oracle's in 99.00%"),
        (Proof, {"accuracy": 0.98}, "leak"),
        (Parity, {"max_abs_logit_diff": 0.1}, "baseline's by 0.1"),
    ],
)
def test_a_gate_that_trips_withholds_the_verdict(story, kind, change, reason) -> None:
    found = row(story.change(kind, lambda each: each.arm == JIT.id, **change).read(), JIT, EAGER).verdict
    assert found.word == gates.WITHHELD
    assert reason in found.reason


def test_rounds_in_which_the_machine_was_taken_away_are_marked_and_left_out_beside(story) -> None:
    slow = lambda each: each.round == 0 and each.arm == JIT.id  # noqa: E731 - named for what it picks
    story.change(Slice, slow, steal_ns=10**6, samples_ns=(800_000,))
    run = story.read()
    assert len(run.marked_rounds) == BLOCKS
    assert row(run, JIT, EAGER).unmarked.speedup == pytest.approx(2, rel=0.01)


def test_smoke_has_no_interval_and_claims_nothing(tmp_path) -> None:
    told = Story(tmp_path / "run", preset="smoke").measure(eager=2e5, twin=2e5, compile=1e5, jit=1e5)
    found = row(told.read(), JIT, EAGER)
    assert (found.interval, found.verdict.word) == (None, gates.UNRESOLVED)


def test_environments_that_differ_make_a_pair_unmatched(tmp_path) -> None:
    told = Story(tmp_path / "run", mismatches={"ipex vanilla": {"numpy": ["1", "2"]}})
    run = told.measure(eager=2e5, twin=2e5, compile=1e5, jit=1e5).read()
    assert not row(run, JIT, EAGER).matched
    assert row(run, COMPILE, EAGER).matched


def test_an_arm_that_was_skipped_is_a_row_with_its_reason(story) -> None:
    story.records = [each for each in story.records if getattr(each, "arm", "") != JIT.id]
    story.records.append(Failure(JIT.id, CASE.id, None, "does not exist", skipped=True))
    run = story.read()
    assert row(run, JIT, EAGER).verdict.word == gates.SKIPPED
    found = next(each for each in tables.arm_rows(run)[CASE] if each["stack"] == "ipex")
    assert (found["status"], found["reason"], found["latency_us"]) == ("skipped", "does not exist", None)


def test_break_even_is_the_longer_start_over_the_gain_of_an_image(story) -> None:
    """Starts of 60 and 1,030 ns, 200 and 100 us an image: 970 ns are paid for after 0.0097 images."""
    run = story.read()
    assert cost(run, JIT, CASE).break_even_images == pytest.approx(0.0097, rel=0.05)
    assert cost(run, EAGER, CASE).break_even_images is None


def test_processes_without_a_steady_state_are_counted(story) -> None:
    story.records.append(Check(JIT.id, CASE.id, 1, 10, "x", 0.0, (1, 2, 3), steady=False))
    found = next(each for each in tables.arm_rows(story.read())[CASE] if each["stack"] == "ipex")
    assert found["blocks_without_steady_state"] == 1


def test_without_the_comparison_of_outputs_nothing_is_claimed(story) -> None:
    story.records = [each for each in story.records if not isinstance(each, Parity)]
    assert row(story.read(), JIT, EAGER).verdict.word == gates.WITHHELD


IMPOSSIBLE = [
    {"samples_ns": ()},
    {"samples_ns": (0,)},
    {"walls_ns": (0,)},
    {"counts": (2,)},
    {"walls_ns": ()},
    {"arm": "jax/jit"},
    {"round": 1},
]


@pytest.mark.parametrize("change", IMPOSSIBLE)
def test_a_slice_that_no_run_has_written_is_refused(story, change) -> None:
    with pytest.raises(UserError, match=r"journal\.jsonl: damaged"):
        story.change(Slice, lambda each: each.block == 3 and each.round == 0, **change).read()


def test_a_run_of_another_schema_is_refused(story) -> None:
    story.info["schema"] = 99
    with pytest.raises(UserError, match="reads schema 2"):
        story.read()


LADDER = [
    ("as it is", EAGER),
    ("not there", Arm("ipex", "eager")),
    ("compile", COMPILE),
    ("extension", JIT),
    ("nowhere", Arm("ipex", "eager")),
]


def ladder(name, rungs) -> dict:
    """Return a ladder as run.json has it."""
    return {"name": name, "steps": [{"name": step, "arm": arm.id} for step, arm in rungs]}


@pytest.fixture
def climbed(story):
    """Return a run in which eager takes 200, compiled 134 and IPEX 100, with a ladder over them."""
    story.info["ladders"] = [ladder("ladder", LADDER)]
    return story.read()


def test_a_ladder_shares_the_gain_out(climbed) -> None:
    """2x in all, of which the extension has 1.34x over the strongest vanilla arm: log 1.34 / log 2 = 42 %."""
    (found,) = attributions(climbed)
    assert [rung.name for rung in found.rungs] == ["as it is", "not there + compile", "extension"]
    assert [round(rung.step.speedup, 2) for rung in found.rungs[1:]] == [1.49, 1.34]
    assert [round(rung.total.speedup, 2) for rung in found.rungs[1:]] == [1.49, 2.0]
    assert found.missing == ("not there", "nowhere")
    assert found.extension.pair.baseline == COMPILE
    assert found.share == pytest.approx(math.log(1.34) / math.log(2), abs=0.01)
    assert "it is 1.34" in attribution_sentence(found)
    assert "42% of the gain" in attribution_sentence(found)


def test_a_ladder_that_never_left_its_stack_says_so(story) -> None:
    story.info["ladders"] = [ladder("extension", LADDER[:3])]
    (found,) = attributions(story.read())
    assert found.name == "extension, pytorch only"
    assert found.arms == [EAGER, COMPILE]


def test_what_another_ladder_begins_with_is_told_once_on_each_case(story) -> None:
    larger = replace(CASE, batch_size=64)
    story.records += [replace(each, case=larger.id) for each in story.records if hasattr(each, "case")]
    story.info["cases"].append(asdict(larger))
    story.info["lineups"][larger.id] = story.info["lineups"][CASE.id]
    run, whole = story.read(), ladder("whole", LADDER)
    for ladders in ([ladder("begun", LADDER[:3]), whole], [whole, ladder("begun", LADDER[:3])], [whole, whole]):
        run.info["ladders"] = ladders
        assert [(found.name, found.case) for found in attributions(run)] == [("whole", CASE), ("whole", larger)]


def test_a_ladder_that_says_something_of_the_extension_is_told_beside_a_longer_one(story) -> None:
    """Only the shorter one ends with an arm that is held against vanilla ones."""
    plain = replace(JIT, settings="plain")
    story.records += [replace(each, arm=plain.id) for each in story.records if getattr(each, "arm", "") == JIT.id]
    story.info["arms"].append(asdict(plain))
    story.info["lineups"][CASE.id].append(plain.id)
    story.info["ladders"] = [ladder("own", LADDER), ladder("settings", [*LADDER, ("plain", plain)])]
    own, settings = attributions(story.read())
    assert (own.share is None, settings.share is None) == (False, True)


def test_where_nothing_is_gained_nothing_is_shared_out(tmp_path) -> None:
    told = Story(tmp_path / "run").measure(eager=1e5, twin=1e5, compile=1e5, jit=1e5)
    told.info["ladders"] = [ladder("flat", LADDER)]
    (found,) = attributions(told.read())
    assert found.share is None
    assert "no gain to share out" in attribution_sentence(found)


def test_a_slice_of_several_processes_counts_by_their_added_rates(story) -> None:
    """Two processes, 10 batches in 100 and 30 in 150: 0.3 a unit of time, whatever the single samples are."""
    each = replace(SLICE, samples_ns=(5,) * 40, counts=(10, 30), walls_ns=(100, 150))
    assert each.batch_interval_ns == pytest.approx(1 / 0.3)
    case = Case("cnn-small", "throughput", 1)
    story.info["cases"], story.info["lineups"] = [asdict(case)], {case.id: story.info["lineups"][CASE.id]}
    story.info["pairs"] = [{**pair, "case": case.id} for pair in story.info["pairs"]]
    story.records = [
        replace(record, case=case.id, **({"samples_ns": (5,) * 40, "counts": (10, 30), "walls_ns": (100, 150)}
                                         if isinstance(record, Slice) and record.arm == JIT.id else {}))
        if hasattr(record, "case") else record
        for record in story.records
    ]  # fmt: skip
    assert story.read().typical_latency_ns(JIT, case) == pytest.approx(1 / 0.3)
