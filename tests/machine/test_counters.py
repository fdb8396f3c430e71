"""Counters are read from the kernel, and the quietest cores are chosen."""

import os

import pytest

from bench.machine import counters, facts


@pytest.mark.parametrize(
    ("text", "throttled_ns"),
    [("nr_throttled 1\nthrottled_usec 7\n", 7000), ("throttled_time 9\n", 9), ("nr_periods 0\n", 0)],
)
def test_throttling_is_read_in_both_versions_of_control_groups(tmp_path, monkeypatch, text, throttled_ns) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    monkeypatch.setattr(counters, "control_group_files", lambda *_: [tmp_path / "cpu.stat"])
    assert counters.counters().throttled_ns == throttled_ns


def test_steal_never_runs_backwards() -> None:
    assert counters.counters().steal_ns <= counters.counters().steal_ns


def stat(*busy, steal=None):
    """Return the text of /proc/stat for cores that were busy, and stolen, for so many ticks."""
    lines = [f"cpu{core} {ticks} 0 0 0 0 0 0 {(steal or {}).get(core, 0)}" for core, ticks in enumerate(busy)]
    return "\n".join([f"cpu {sum(busy)} 0 0 0 0 0 0 0", *lines, "intr 1"])


@pytest.fixture
def cores(tmp_path, monkeypatch):
    """Return a function that chooses cores on a fake machine, from /proc/stat before and after the observation."""

    def choose(count, before, after, siblings=(), nodes=()):
        readings = iter([before, after])
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(len(before.splitlines()) - 2)))
        monkeypatch.setattr(counters, "read_lines", lambda _: next(readings).splitlines())
        monkeypatch.setattr(counters, "pause", lambda _: None)
        monkeypatch.setattr(facts, "CPU", tmp_path)
        monkeypatch.setattr(facts, "NODES", tmp_path)
        for group in siblings:
            for core in group:
                (tmp_path / f"cpu{core}/topology").mkdir(parents=True)
                (tmp_path / f"cpu{core}/topology/thread_siblings_list").write_text(",".join(map(str, group)))
        for number, listed in enumerate(nodes):
            (tmp_path / f"node{number}").mkdir()
            (tmp_path / f"node{number}/cpulist").write_text(listed + "\n")
        return counters.quiet_cores(count)

    return choose


def test_the_quietest_cores_are_chosen(cores) -> None:
    assert cores(2, stat(0, 0, 0), stat(9, 1, 5)) == [1, 2]


def test_a_stolen_core_is_not_quiet(cores) -> None:
    assert cores(1, stat(0, 0), stat(0, 1, steal={0: 9})) == [1]


def test_physical_cores_come_before_siblings(cores) -> None:
    assert cores(2, stat(0, 0, 0, 0), stat(5, 0, 5, 5), siblings=[(0, 1), (2, 3)]) == [0, 2]


def test_all_cores_are_on_one_memory_node_if_it_has_enough(cores) -> None:
    assert cores(2, stat(0, 0, 0, 0), stat(1, 9, 2, 3), nodes=["0-1", "2-3"]) == [2, 3]
    assert counters.node_of(1) == 0


def test_several_numbers_of_cores_are_chosen_from_one_observation(cores, monkeypatch) -> None:
    monkeypatch.setattr(counters, "quiet_cores", lambda count: counters.quiet_core_sets([1, 2, 4]))
    assert cores(None, stat(0, 0, 0, 0), stat(9, 1, 5, 2)) == {1: [1], 2: [1, 3], 4: [0, 1, 2, 3]}


def test_all_cores_are_chosen_without_an_observation(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 0})
    assert counters.quiet_cores(2) == [0, 1]


def test_counters_can_be_limited_to_some_cores(monkeypatch) -> None:
    monkeypatch.setattr(
        counters, "STAT", type("Stat", (), {"read_text": lambda *_, **__: stat(1, 2, 4, steal={1: 3})})()
    )
    assert counters.counters([1]).steal_ns == 3 * counters.TICK_NS
    assert counters.counters([0]).steal_ns == 0
    assert counters.counters([1]).busy_ns == 2 * counters.TICK_NS
    assert counters.counters().busy_ns == 7 * counters.TICK_NS
    assert counters.counters([77]).busy_ns == 7 * counters.TICK_NS
