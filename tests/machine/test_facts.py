import os

import pytest

from bench.machine import facts


def test_the_machine_is_described() -> None:
    described = facts.describe()
    assert described.cpu
    assert 1 <= described.usable_cores <= described.cores
    assert described.memory_bytes > 1e8


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
    monkeypatch.setattr(facts, "control_group_files", lambda *_: [tmp_path / name])
    assert facts.quota_cores() == cores
    assert facts.usable_cores() >= 1


@pytest.mark.parametrize(("siblings", "count"), [("0", 1), ("0,64", 2), ("0-1", 2), ("0-3", 4)])
def test_the_threads_of_a_core_are_counted(tmp_path, monkeypatch, siblings, count) -> None:
    (tmp_path / "cpu0/topology").mkdir(parents=True)
    (tmp_path / "cpu0/topology/thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr(facts, "CPU", tmp_path)
    assert facts.threads_per_core() == count


@pytest.mark.parametrize(("file", "text", "on"), [("intel_pstate/no_turbo", "0", True), ("cpufreq/boost", "0", False)])
def test_turbo_is_read_from_either_driver(tmp_path, monkeypatch, file, text, on) -> None:
    monkeypatch.setattr(facts, "CPU", tmp_path)
    assert facts.turbo() is None
    (tmp_path / file).parent.mkdir()
    (tmp_path / file).write_text(text)
    assert facts.turbo() is on


@pytest.mark.parametrize(
    ("mask", "siblings", "count"),
    [
        ({0, 1, 2, 3}, ["0-1", "0-1", "2-3", "2-3"], 2),
        ({0, 2}, ["0-1", "0-1", "2-3", "2-3"], 2),
        ({0, 1}, ["0", "1"], 2),
    ],
)
def test_physical_cores_are_those_of_the_usable_ones(tmp_path, monkeypatch, mask, siblings, count) -> None:
    for core, listed in enumerate(siblings):
        (tmp_path / f"cpu{core}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}/topology/thread_siblings_list").write_text(listed + "\n")
    monkeypatch.setattr(facts, "CPU", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    assert facts.physical_cores() == count


@pytest.mark.parametrize(
    ("limit", "used"), [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
)
def test_memory_is_what_the_control_group_leaves(tmp_path, monkeypatch, limit, used) -> None:
    monkeypatch.setattr(facts, "control_group_files", lambda *_: [tmp_path / limit])
    (tmp_path / limit).write_text("5000000\n")
    (tmp_path / used).write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert facts.memory_available_bytes() == 1_500_000
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else str(1 << 62))
    assert facts.memory_available_bytes() > 5_000_000


class Session:
    """Stands for the file of a session's priority, which refuses so many times."""

    def __init__(self, refusals):
        self.refusals, self.written = list(refusals), []

    def write_text(self, text):
        if self.refusals:
            raise self.refusals.pop()
        self.written.append(text)


@pytest.mark.parametrize(
    ("refusals", "written"),
    [([], ["-20"]), ([BlockingIOError()] * 3, ["-20"]), ([FileNotFoundError()], []), ([PermissionError()], [])],
)
def test_a_session_that_refuses_takes_no_priority_from_its_process(monkeypatch, refusals, written) -> None:
    """As without CAP_SYS_ADMIN, of which the kernel takes one priority in 100 ms, or without sessions' groups."""
    session, given = Session(refusals), []
    monkeypatch.setattr(facts, "_autogroup", lambda _: session)
    monkeypatch.setattr(facts, "pause", lambda _: None)
    monkeypatch.setattr(os, "setpriority", lambda _, pid, nice: given.append((pid, nice)))
    facts.raise_priority(77)
    assert given == [(77, facts.MOST_URGENT)]
    assert session.written == written


def test_priority_is_raised_as_far_as_is_allowed_and_no_process_suffers_where_it_is_not(monkeypatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    assert facts.MOST_URGENT <= facts.allowed_nice() <= facts.nice_of(os.getpid())
    facts.allowed_nice.cache_clear()
    monkeypatch.setattr(os, "setpriority", refuse)
    try:
        assert facts.allowed_nice() == facts.nice_of(os.getpid())
    finally:
        facts.allowed_nice.cache_clear()
