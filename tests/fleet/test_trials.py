"""Trials of a search on the nodes of a fleet."""

import csv
import json
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from backends.registry import stacks
from bench.codec import decode
from bench.fleet.driver import NodeLostError, NodeOrder, NodeRefusedError, Started
from bench.fleet.state import write_fleet
from bench.fleet.trials import TrialNodes, TrialOrder
from bench.training.train import Job
from bench.training.tune import TrialSearch
from models.errors import UserError
from models.recipes.parse import load_recipe
from tests.fleet.fake import INFO, FakeDriver
from tests.training.test_tune import RECIPE, TUNE

DATA = SimpleNamespace(name="fashion-mnist", digest="0" * 64)
JOB = Job(load_recipe("sam"), stacks()["pytorch"], "train-eager", "fp32", 2, 0, 0, DATA)


class Trainers(FakeDriver):
    """Nodes that return the batch size of a trial as its accuracy; `calls` are the names of the orders they got."""

    def start(self, node, order) -> Started:
        self.calls.append((node.name, order.name))
        if self.faults[node.name] == "refuses":
            raise NodeRefusedError("the CPU lacks amx_tile")
        return super().start(node, order)

    def stream(self, node, order, offset):
        given = decode(TrialOrder, json.loads(order.trial))
        assert (given.data, given.job.epochs, given.job.threads) == ("auto", 2, 0)
        yield b"Hwaiting"
        if self.faults[node.name] == "dies":
            raise NodeLostError("no route to host")
        if self.faults[node.name] == "lies":
            yield b'E{"status": 0, "line": "{}"}'
        if self.faults[node.name] == "is killed":
            yield b'E{"status": null, "line": "the run was killed"}'
        accuracy = None if self.faults[node.name] == "diverges" else given.job.recipe.batch_size / 1000
        result = {"accuracy": accuracy, "reason": "" if accuracy else "diverged"}
        yield b"E" + json.dumps({"status": 0, "line": json.dumps(result)}).encode()


def nodes(driver) -> TrialNodes:
    return TrialNodes(driver, None, "auto", lambda node: NodeOrder(node.name, "/r", ("--suite", "inference")))


def search(folder, trials) -> TrialSearch:
    return TrialSearch(JOB, trials, folder, parallel=True)


def rows(folder):
    with (folder / "trials.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_each_node_runs_a_trial_and_one_that_fails_gets_no_other(tmp_path) -> None:
    driver = Trainers(
        tmp_path, {"good": "", "gone": "dies", "old": "refuses", "liar": "lies", "odd": "diverges", "k": "is killed"}
    )
    nodes(driver).run_trials(search(tmp_path, 6))
    found = rows(tmp_path)
    counted = [row for row in found if row["node"] in ("good", "odd")]
    assert len(counted) == 6
    assert all(
        float(row["held_out_accuracy"]) == int(row["batch_size"]) / 1000 for row in counted if row["node"] == "good"
    )
    reasons = {row["node"]: row["reason"] for row in found}
    assert reasons["gone"] == "no route to host"
    assert reasons["old"] == "the CPU lacks amx_tile"
    assert reasons["odd"] == "diverged"
    assert reasons["liar"].startswith("its result is none: ")
    assert reasons["k"] == "the run was killed"
    assert len(found) == 10
    assert len({name for _, name in driver.calls if name.startswith("trial.")}) == 10


def test_a_driver_that_starts_again_takes_up_what_is_under_way(tmp_path) -> None:
    killed = search(tmp_path, 3)
    first, lost = killed.ask("a"), killed.ask("b")
    driver = Trainers(tmp_path, {"a": ""})
    again = search(tmp_path, 3)
    assert (again.token, [trial.number for trial in again.running()], again.left) == (killed.token, [0, 1], 1)
    nodes(driver).run_trials(again)
    assert driver.calls[0] == ("a", f"trial.{killed.token}.1")
    assert [(row["trial"], row["node"], row["reason"]) for row in rows(tmp_path)] == [
        ("1", "a", ""), ("2", "b", "the driver lists its node no longer"), ("3", "a", ""), ("4", "a", ""),
    ]  # fmt: skip
    assert int(rows(tmp_path)[0]["batch_size"]) == first.params["batch_size"]
    assert again.study.trials[lost.number].state.name == "FAIL"
    # On this machine, a trial that was under way elsewhere counts as failed.
    search(tmp_path, 4).ask("a")
    assert TrialSearch(JOB, 4, tmp_path).left == 1
    with pytest.raises(UserError, match="holds a search with other settings"):
        TrialSearch(replace(JOB, seed=1), 4, tmp_path)


def test_a_search_without_nodes_ends_in_one_line_and_goes_on_later(tmp_path) -> None:
    with pytest.raises(UserError, match="no node can go on with the search; 2 trials are left"):
        nodes(Trainers(tmp_path, {"a": "dies"})).run_trials(search(tmp_path, 2))
    nodes(Trainers(tmp_path, {"a": ""})).run_trials(search(tmp_path, 2))
    assert [row["reason"] for row in rows(tmp_path)] == ["no route to host", "", ""]


def test_a_search_over_ssh_trains_on_the_nodes(client, bench, tmp_path) -> None:
    (tmp_path / "own.toml").write_text(RECIPE)
    (tmp_path / "hosts").write_text("gone\nhere\n")
    (tmp_path / "f").mkdir()
    settings = {"hosts": str(tmp_path / "hosts"), "python": sys.executable}
    write_fleet(tmp_path / "f", replace(INFO, driver="ssh", home=str(tmp_path / "home"), settings=settings))
    path = f"{client}:{os.environ['PATH']}"
    done = bench(*TUNE, "--trials", "1", "--fleet", "f", PATH=path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    folder = tmp_path / "results" / "tune-own-toy-seed0"
    gone, here = rows(folder)
    assert (gone["node"], gone["reason"]) == ("gone", "ssh: connect to host gone port 22: No route to host")
    assert here["node"] == "here"
    assert 0 < float(here["held_out_accuracy"]) <= 1
    assert load_recipe(str(folder / "best.toml")).name == "own"
