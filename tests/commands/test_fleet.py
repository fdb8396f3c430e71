"""`bench fleet`: what a node is to run, stopping, and fleets that a stranger has written."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.codec import encode
from bench.commands import fleet
from bench.commands.fleet import open_driver, order_for, report_fleet, stop_fleet
from bench.commands.folders import require_name
from bench.console import BrokenPipeSafeConsole
from bench.fleet.driver import Node, NodeLostError
from bench.fleet.state import MEASURING, NodeEvent, append_event, write_fleet
from models.errors import UserError
from tests.fleet.fake import INFO, FakeDriver

NOW = datetime.now(UTC).isoformat(timespec="seconds")


def test_a_run_on_a_node_is_that_of_one_fleet_and_one_node() -> None:
    """A fleet whose folder was deleted, and made again, does not take an old run on the node for its own."""
    long = "n" * 59
    fleets = [INFO, replace(INFO, started=NOW), replace(INFO, command=("bench", "other")), replace(INFO, name="g" * 90)]
    names = [
        order_for(info, Path("f"), Node(name, name)).name for info in fleets for name in ("a", f"{long}1", f"{long}2")
    ]
    assert len(set(names)) == len(names)
    assert order_for(INFO, Path("f"), Node("a", "x")) == order_for(INFO, Path("f"), Node("a", "y"))
    for name in names:
        require_name(name)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return the folder of a fleet with two nodes that measure."""
    folder = tmp_path / "f"
    folder.mkdir()
    write_fleet(folder, INFO)
    for name in ("a", "b"):
        append_event(folder, NodeEvent(name, name, MEASURING, "", NOW, 1))
    return folder


def test_a_node_that_can_not_be_stopped_is_said_and_is_a_failure(folder, monkeypatch, capsys) -> None:
    class Stubborn(FakeDriver):
        def stop(self, node, order) -> None:
            if node.name == "b":
                raise NodeLostError("no route to host")

    monkeypatch.setattr(fleet, "open_driver", lambda _: Stubborn(folder, {}))
    assert stop_fleet(folder, BrokenPipeSafeConsole()) == 1
    assert capsys.readouterr().out == "a: stopped\nb: can't be stopped: no route to host\n"


@pytest.mark.parametrize("name", ["../../other", "/etc", "..", "a/b", ""])
def test_an_event_that_names_a_folder_elsewhere_is_refused(folder, name) -> None:
    append_event(folder, NodeEvent(name, "x", "complete", "", NOW, 1))
    with pytest.raises(UserError, match=r"fleet\.jsonl: damaged: '.*' can't be the name of a node"):
        report_fleet(folder, BrokenPipeSafeConsole())


def test_a_link_in_the_folder_of_a_fleet_is_refused(folder, tmp_path) -> None:
    (tmp_path / "secret").mkdir()
    (folder / "nodes").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="nodes: is a link or a device"):
        report_fleet(folder, BrokenPipeSafeConsole())


def test_a_fleet_without_a_home_is_refused_in_one_line(folder) -> None:
    content = encode(INFO)
    del content["home"]
    (folder / "fleet.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"fleet\.json: damaged: lacks home"):
        stop_fleet(folder, BrokenPipeSafeConsole())


def test_minutes_that_are_no_number_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="--minutes -1: allowed: 1 or more"):
        open_driver(replace(INFO, driver="slurm", settings={"minutes": "-1"}))
