import os

import pytest

from bench import machine


def test_the_machine_is_described() -> None:
    facts = machine.describe()
    assert facts["cpu"]
    assert 1 <= facts["usable_cores"] <= facts["cores"]
    assert facts["memory_bytes"] > 1e8


@pytest.mark.parametrize(
    ("name", "text", "other", "cores"),
    [
        ("cpu.max", "150000 100000", "", 1.5),
        ("cpu.max", "max 100000", "", None),
        ("cpu.cfs_quota_us", "50000", "100000", 0.5),
        ("cpu.cfs_quota_us", "-1", "100000", None),
    ],
)
def test_the_quota_of_a_control_group_is_read_in_both_versions(tmp_path, monkeypatch, name, text, other, cores) -> None:
    (tmp_path / name).write_text(text)
    (tmp_path / "cpu.cfs_period_us").write_text(other)
    monkeypatch.setattr(machine, "control_group_files", lambda *_: [tmp_path / name])
    assert machine.quota_cores() == cores
    assert machine.usable_cores() >= 1


@pytest.mark.parametrize(("siblings", "count"), [("0", 1), ("0,64", 2), ("0-1", 2), ("0-3", 4)])
def test_the_threads_of_a_core_are_counted(tmp_path, monkeypatch, siblings, count) -> None:
    (tmp_path / "cpu0/topology").mkdir(parents=True)
    (tmp_path / "cpu0/topology/thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(machine, "CPU", tmp_path)
    assert machine.threads_per_core() == count


@pytest.mark.parametrize(("file", "text", "on"), [("intel_pstate/no_turbo", "0", True), ("cpufreq/boost", "0", False)])
def test_turbo_is_read_from_either_driver(tmp_path, monkeypatch, file, text, on) -> None:
    monkeypatch.setattr(machine, "CPU", tmp_path)
    assert machine.turbo() is None
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    assert machine.turbo() is on


def test_priority_is_raised_as_far_as_is_allowed_and_no_process_suffers_where_it_is_not(monkeypatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    assert machine.MOST_URGENT <= machine.allowed_nice() <= machine.nice_of(os.getpid())
    machine.allowed_nice.cache_clear()
    monkeypatch.setattr(os, "setpriority", refuse)
    try:
        assert machine.allowed_nice() == machine.nice_of(os.getpid())
    finally:
        machine.allowed_nice.cache_clear()
