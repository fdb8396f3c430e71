"""From a journal of epochs to figures of training: exact where the journal is."""

import json
from dataclasses import asdict, replace

import pytest

from bench.analysis import gates
from bench.analysis.speedups import Run
from bench.analysis.training import learning_curve, trained_arms
from bench.journal import Journal
from bench.records import End, Evidence, Failure, TrainedEpoch
from bench.report import page, plots, tables
from bench.suite.arms import Arm, Case
from bench.suite.environments import find_stack
from models.recipes.parse import load_recipe

CASE = Case("cnn-small", "training", 64)
TORCH, TWIN, IPEX = Arm("pytorch", "train"), Arm("pytorch", "train", replica=True), Arm("ipex", "train")
BLOCKS, SEEDS, EPOCHS = 20, 3, 3
EPOCH = TrainedEpoch("", CASE.id, 0, 0, 0, 60_000, 0.5, 10, 8, 1, "d", 7, None, 0, 0, 0, 0, 0, 0.0, None)
SECONDS = {TORCH: 6.0, TWIN: 6.0, IPEX: 4.0}
ACCURACIES = (0.88, 0.905, 0.915)  # after each epoch; a seed adds a little


class Story:
    """A training run that is told instead of measured."""

    def __init__(self, folder) -> None:
        self.folder, arms = folder, (TORCH, TWIN, IPEX)
        self.info = {
            "schema": 2, "command": ["bench", "run"], "started": "2026-01-01T00:00:00+00:00", "git_commit": None,
            "suite": {"name": "told", "summary": "s", "training": {
                "recipe": asdict(load_recipe("adam")), "epochs": EPOCHS, "images": 60_000, "seeds": SEEDS}},
            "preset": "standard", "seed": 1, "threads": 2, "arms": [asdict(arm) for arm in arms],
            "cases": [asdict(CASE)], "ladders": [], "lineups": {CASE.id: [arm.id for arm in arms]},
            "pairs": [
                {"arm": arm.id, "baseline": TORCH.id, "case": CASE.id, "candidate": arm == IPEX} for arm in (TWIN, IPEX)
            ],
            "schedule": [], "protocol": {"slice_ns": 10**6}, "settings": {}, "restart_settings": {},
            "machine": {"cpu": "c", "cores": 2, "usable_cores": 2},
            "stacks": {
                name: {"environment": find_stack(name).environment, "baselines": find_stack(name).baselines,
                       "compiles": True}
                for name in ("pytorch", "ipex")
            },
            "environments": {
                name: {"bytes": 2, "python": "3.11", "packages": {}} for name in ("vanilla", "ipex")
            },
            "missing": {}, "mismatches": {}, "data": {"name": "fashion-mnist", "digest": "d"}, "models": {},
        }  # fmt: skip
        self.records = [record for arm in arms for block in range(1, BLOCKS + 1) for record in self.block(arm, block)]

    def block(self, arm, block):
        """Return what an arm leaves in a block: a slow first epoch, then level ones."""
        for number in range(EPOCHS if block <= SEEDS else 2):
            wall = SECONDS[arm] * (2 if number == 0 else 1) * (1 + block % 3 / 1000)
            accuracy = ACCURACIES[number] + block / 1000 if block <= SEEDS else None
            yield replace(
                EPOCH, arm=arm.id, block=block, round=number, wall_ns=round(wall * 1e9), wait_ns=round(wall * 1e7),
                digest=f"{block}-{number}", test_accuracy=accuracy,
            )  # fmt: skip
        yield Evidence(arm.id, CASE.id, block, "fp32", 2, ("aten::conv", "k"))

    def change(self, where, **new) -> "Story":
        """Replace fields of the epochs that `where` holds for."""
        self.records = [
            replace(each, **new) if isinstance(each, TrainedEpoch) and where(each) else each for each in self.records
        ]
        return self

    def read(self) -> Run:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(self.info))
        with Journal(self.folder / "journal.jsonl") as journal:
            for record in (*self.records, End("complete", 1)):
                journal.append(record)
        return Run(self.folder)


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path / "run")


def row(run):
    """Return the extension's comparison."""
    return next(each for each in run.speedups if each.pair.arm == IPEX)


def is_ipex(each) -> bool:
    return each.arm == IPEX.id


def test_the_first_epoch_is_a_warm_up_and_the_ratio_is_of_the_others(story) -> None:
    found = row(story.read())
    assert found.speedup == pytest.approx(1.5)
    assert found.verdict.word == gates.FASTER
    assert found.estimate.blocks == BLOCKS


def test_figures_of_an_arm_are_of_its_epochs(story) -> None:
    found = {each.arm: each for each in trained_arms(story.read(), CASE)}
    ours = found[IPEX]
    assert ours.epoch_ns == pytest.approx(4.004e9)
    assert ours.first_epoch_ns == pytest.approx(8.008e9)
    assert ours.images_per_s == pytest.approx(60_000 / 4.004)
    assert ours.wait_share == pytest.approx(0.01, rel=1e-3)
    assert (ours.memory_bytes, ours.epochs) == (7, 3 * EPOCHS + (BLOCKS - SEEDS) * 2)


def test_time_to_accuracy_is_of_all_epochs_until_then(story) -> None:
    ours = next(each for each in trained_arms(story.read(), CASE) if each.arm == IPEX)
    assert ours.time_to_ns(0.90) == pytest.approx(12e9, rel=0.01)
    assert ours.time_to_ns(0.91) == pytest.approx(16e9, rel=0.01)
    assert len(ours.goals[0.91]) == SEEDS


def test_an_accuracy_that_no_seed_reaches_has_no_time(story) -> None:
    run = story.change(is_ipex, test_accuracy=0.5).read()
    ours = next(each for each in trained_arms(run, CASE) if each.arm == IPEX)
    assert ours.time_to_ns(0.90) is None
    assert row(run).verdict.word == gates.WITHHELD
    assert "trained to 50.00%, less than 99% of 91.70% of pytorch train" in row(run).verdict.reason


def test_accuracy_is_the_mean_over_seeds_and_a_difference_is_judged_by_their_scatter(story) -> None:
    run = story.read()
    ours = next(each for each in trained_arms(run, CASE) if each.arm == IPEX)
    assert ours.final == {1: pytest.approx(0.916), 2: pytest.approx(0.917), 3: pytest.approx(0.918)}
    assert (ours.accuracy, ours.deviation) == (pytest.approx(0.917), pytest.approx(0.001))
    assert (ours.difference.mean, ours.difference.word) == (0, "within seed noise")


@pytest.mark.parametrize(("shifts", "word"), [
    ((0.004, 0.005, 0.006), "beyond seed noise"),
    ((0.004, -0.005, 0.006), "within seed noise"),
])  # fmt: skip
def test_a_difference_counts_when_it_is_the_same_for_every_seed(story, shifts, word) -> None:
    for block, shift in enumerate(shifts, 1):
        last, place = ACCURACIES[-1] + block / 1000 + shift, (IPEX.id, block, 2)
        story.change(lambda each, place=place: (each.arm, each.block, each.round) == place, test_accuracy=last)
    ours = next(each for each in trained_arms(story.read(), CASE) if each.arm == IPEX)
    assert ours.difference.word == word


@pytest.mark.parametrize(("where", "change", "reason"), [
    (lambda each: each.block == 4 and each.round == 1, {"digest": "x"}, "fed other images, or in another order"),
    (lambda each: each.block == 4 and each.round == 1, {"images": 59_968}, "fed other images"),
    (lambda each: each.round == 0, {"loss": 0.6}, "the mean loss of the first epoch, 0.6000, is not the baseline's"),
    (lambda each: True, {"test_accuracy": 0.98}, "is a leak"),
])  # fmt: skip
def test_what_was_not_equal_work_is_withheld(story, where, change, reason) -> None:
    found = row(story.change(lambda each: is_ipex(each) and where(each), **change).read())
    assert found.verdict.word == gates.WITHHELD
    assert reason in found.verdict.reason


def test_lower_precision_is_not_held_to_the_loss(story) -> None:
    bf16 = replace(IPEX, precision="bf16")
    story.info = json.loads(json.dumps(story.info).replace(json.dumps(asdict(IPEX)), json.dumps(asdict(bf16))))
    story.info["lineups"][CASE.id][2] = story.info["pairs"][1]["arm"] = bf16.id
    story.records = [replace(each, arm=bf16.id) if each.arm == IPEX.id else each for each in story.records]
    found = story.change(lambda each: each.arm == bf16.id and each.round == 0, loss=0.6).read().speedups[0]
    assert found.verdict.word == gates.FASTER


def test_lower_precision_is_held_to_the_accuracy_of_fp32_even_where_its_baseline_fails_too(story) -> None:
    for arm in (TORCH, IPEX):
        bf16 = replace(arm, precision="bf16")
        story.info["arms"].append(asdict(bf16))
        story.info["lineups"][CASE.id].append(bf16.id)
        copies = [replace(each, arm=bf16.id) for each in story.records if each.arm == arm.id]
        story.records += copies
        story.change(lambda each, bf16=bf16: each.arm == bf16.id and each.test_accuracy is not None, test_accuracy=0.1)
    ours, theirs = (replace(arm, precision="bf16").id for arm in (IPEX, TORCH))
    story.info["pairs"].append({"arm": ours, "baseline": theirs, "case": CASE.id, "candidate": False})
    found = next(each for each in story.read().speedups if each.pair.arm.id == ours)
    assert found.verdict.word == gates.WITHHELD
    assert "of pytorch train" in found.verdict.reason


def test_in_a_preset_that_claims_nothing_no_accuracy_is_judged(story) -> None:
    story.info["preset"] = "smoke"
    assert row(story.change(is_ipex, test_accuracy=0.5).read()).verdict.word == gates.UNRESOLVED


def test_a_process_without_proof_contributes_no_epoch(story) -> None:
    story.records = [each for each in story.records if not (isinstance(each, Evidence) and each.block > 6)]
    assert row(story.read()).estimate.blocks == 6


def test_an_arm_that_diverged_is_a_row_with_its_reason(story) -> None:
    story.records = [each for each in story.records if each.arm != IPEX.id]
    story.records.append(Failure(IPEX.id, CASE.id, 1, "diverged: the loss of step 4 of 938 is nan"))
    run = story.read()
    assert row(run).verdict.word == gates.FAILED
    assert "diverged" in row(run).verdict.reason
    (ours,) = [each for each in tables.arm_rows(run)[CASE] if each["stack"] == "ipex"]
    assert [each["peak_memory_bytes"] for each in tables.arm_rows(run)[CASE]] == [7, 7, None]
    assert (ours["status"], "diverged" in ours["reason"]) == ("failed", True)


def test_a_learning_curve_is_the_mean_over_seeds(story) -> None:
    curve = learning_curve(story.read(), IPEX, CASE)
    assert [seconds for seconds, _ in curve] == pytest.approx([8.008, 12.012, 16.016])
    assert [accuracy for _, accuracy in curve] == pytest.approx([each + 0.002 for each in ACCURACIES])


def test_the_report_has_training_and_nothing_that_was_not_measured(story) -> None:
    run = story.read()
    arms, drawn = tables.arm_rows(run), plots.render(run)
    texts = tables.render(run, arms) | page.render(run, arms, drawn)
    assert set(drawn) == {"speedups.svg", "training.svg", "blocks.svg"}
    assert set(texts) == {"arms.csv", "speedups.csv", "training.csv", "report.md", "report.html"}
    text = texts["report.md"]
    assert "--:|\n| pytorch train | 6.01 |" in text  # rows right behind the line that makes a table
    assert "| ipex train | 4.00 | 8.01 |" in text
    assert text.count("the others are compared with it") == 1
    assert "within seed noise" in text
    assert "Cost to the user" not in text
    assert "latency" not in text.partition("## How it was measured")[0].lower()
    assert "a first epoch and one that counts" in text
    assert "| 1.00 % |" in text
