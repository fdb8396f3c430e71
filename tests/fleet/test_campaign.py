"""What becomes of the nodes of a fleet: those that end, die, refuse, lie, fall silent, join and leave."""

import tracemalloc
from dataclasses import replace
from threading import Event

import pytest

from bench.fleet.campaign import Fleet, outcome
from bench.fleet.driver import Ended, NodeLostError, NodeOrder, NodeRefusedError
from bench.fleet.state import NodeEvent, append_event, only_driver, read_events, read_fleet, write_fleet
from models.errors import UserError
from tests.fleet.fake import INFO, FakeDriver

LISTS_S = 0.05


def attend(driver, folder, info=INFO, again=()):
    folder.mkdir(exist_ok=True)
    fleet = Fleet(driver, info, folder, lambda _: None, lambda node: NodeOrder(node.name, "/r", ()))
    fleet.attend(again, LISTS_S)
    return {name: (event.status, event.starts) for name, event in read_events(folder).items()}


def mirrored(folder, driver, name) -> bool:
    """Return whether the copy of a run is the same as the run, byte by byte."""
    files = "run.json", "journal.jsonl"
    copy = folder / "nodes" / name
    return all((copy / file).read_bytes() == (driver.run(name) / file).read_bytes() for file in files)


def test_every_node_ends_in_a_row_with_a_reason(tmp_path) -> None:
    driver = FakeDriver(tmp_path / "runs", {"a": "", "b": "", "c": "dies", "d": "refuses", "e": "lies"})
    driver.folder.mkdir()
    folder = tmp_path / "f"
    assert attend(driver, folder) == {
        "a": ("complete", 1), "b": ("complete", 1), "c": ("lost", 1), "d": ("refused", 0), "e": ("damaged", 1),
    }  # fmt: skip
    events = read_events(folder)
    assert events["c"].reason == "no route to host"
    assert events["d"].reason == "the CPU lacks amx_tile"
    assert "its link is broken" in events["e"].reason
    assert mirrored(folder, driver, "a")
    assert mirrored(folder, driver, "b")


def test_a_fleet_goes_on_where_it_was_and_starts_nothing_again(tmp_path) -> None:
    driver = FakeDriver(tmp_path / "runs", {"a": "", "c": "dies", "d": "refuses"})
    driver.folder.mkdir()
    folder = tmp_path / "f"
    attend(driver, folder)
    received = (folder / "nodes" / "c" / "journal.jsonl").stat().st_size
    # The driver was killed while it wrote: half a line, and half an event.
    for path in (folder / "nodes" / "c" / "journal.jsonl", folder / "fleet.jsonl"):
        with path.open("a") as stream:
            stream.write('{"kind":')
    driver.calls.clear()
    driver.faults["c"] = ""
    assert attend(driver, folder) == {"a": ("complete", 1), "c": ("complete", 2), "d": ("refused", 0)}
    assert driver.calls == [("start", "c"), ("stream", "c", received)]
    assert mirrored(folder, driver, "c")
    driver.calls.clear()
    driver.faults["d"] = ""
    assert attend(driver, folder, again=("d",))["d"] == ("complete", 1)
    assert driver.calls == [("start", "d"), ("stream", "d", 0)]


def test_a_node_that_falls_silent_is_stopped(tmp_path) -> None:
    driver = FakeDriver(tmp_path / "runs", {"a": "", "s": "silent"})
    driver.folder.mkdir()
    assert attend(driver, tmp_path / "f", replace(INFO, patience_s=0))["s"] == ("straggled", 1)
    assert ("stop", "s") in driver.calls


def test_nodes_may_join_and_leave_while_others_measure(tmp_path) -> None:
    driver = FakeDriver(tmp_path / "runs", {"a": "dies", "b": ""})
    driver.folder.mkdir()
    folder = tmp_path / "f"
    attend(driver, folder)
    del driver.faults["a"]
    driver.faults |= {"c": "dies"}

    def join(name) -> None:
        if name == "c":
            driver.faults["late"] = ""
            assert late.wait(60)
        elif name == "late":
            late.set()

    late, driver.while_streaming = Event(), join
    assert attend(driver, folder) == {
        "a": ("left", 1), "b": ("complete", 1), "c": ("lost", 1), "late": ("complete", 1),
    }  # fmt: skip
    assert read_events(folder)["a"].reason == "the driver lists it no longer"


def test_a_driver_that_lists_no_nodes_is_an_error_of_the_user(tmp_path) -> None:
    driver = FakeDriver(tmp_path, {})

    def fail():
        raise NodeLostError("the cluster does not answer")

    driver.nodes = fail
    with pytest.raises(UserError, match=r"no nodes can be listed \(the cluster does not answer\)"):
        attend(driver, tmp_path / "f")


@pytest.mark.parametrize(
    ("ended", "last", "expected"),
    [
        (Ended(0), "complete", ("complete", "")),
        (Ended(1), "settled", ("settled", "a check failed; its report says which")),
        (Ended(1, "interrupted"), "interrupted", ("interrupted", "interrupted")),
        (Ended(2, "another measurement is under way"), None, ("refused", "another measurement is under way")),
        (Ended(None, "the run was killed"), None, ("crashed", "the run was killed")),
        (Ended(139), None, ("crashed", "exit status 139")),
    ],
)
def test_the_status_of_a_node_follows_from_how_its_run_ended(ended, last, expected) -> None:
    assert outcome(ended, last) == expected


def test_two_drivers_do_not_drive_one_fleet(tmp_path) -> None:
    refused = pytest.raises(UserError, match="another process drives this fleet")
    with only_driver(tmp_path), refused, only_driver(tmp_path):
        pass


def test_an_event_is_appended_without_reading_those_before_it(tmp_path) -> None:
    (tmp_path / "fleet.jsonl").write_bytes(b"x" * 8_000_000 + b"\n")
    tracemalloc.start()
    append_event(tmp_path, NodeEvent("a", "a", "pending", "", ""))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert (tmp_path / "fleet.jsonl").read_bytes().count(b"\n") == 2


def test_a_node_that_falls_silent_and_can_not_be_stopped_has_straggled(tmp_path) -> None:
    class Stubborn(FakeDriver):
        def stop(self, node, order) -> None:
            raise NodeRefusedError("the run goes on")

    driver = Stubborn(tmp_path / "runs", {"s": "silent"})
    driver.folder.mkdir()
    assert attend(driver, tmp_path / "f", replace(INFO, patience_s=0))["s"] == ("straggled", 1)
    assert read_events(tmp_path / "f")["s"].reason.endswith("blocks; can't be stopped: the run goes on")


def test_the_description_of_a_fleet_is_read_back(tmp_path) -> None:
    write_fleet(tmp_path, INFO)
    assert read_fleet(tmp_path) == INFO
    (tmp_path / "fleet.json").write_text('{"schema": 1}')
    with pytest.raises(UserError, match="damaged"):
        read_fleet(tmp_path)
