"""Quotas and memory follow the control group, and priorities what the kernel allows."""

import os

import pytest

from bench.machine import facts, resources


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
    monkeypatch.setattr(resources, "control_group_files", lambda *_: [tmp_path / name])
    assert resources.quota_cores() == cores
    assert facts.usable_cores() >= 1


@pytest.mark.parametrize(
    ("limit", "used"), [("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")]
)
def test_available_memory_respects_the_control_group(tmp_path, monkeypatch, limit, used) -> None:
    monkeypatch.setattr(resources, "control_group_files", lambda *_: [tmp_path / limit])
    (tmp_path / limit).write_text("5000000\n")
    (tmp_path / used).write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000\n")
    assert resources.memory_available_bytes() == 1_500_000
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else str(1 << 62))
    assert resources.memory_available_bytes() > 5_000_000


class Session:
    """A fake of the file with a session's priority, which refuses with these errors first."""

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
def test_a_process_gets_its_priority_even_if_its_session_does_not(monkeypatch, refusals, written) -> None:
    # The kernel blocks without CAP_SYS_ADMIN (one priority in 100 ms); without autogroups there is no such file.
    session, given = Session(refusals), []
    monkeypatch.setattr(resources, "_autogroup", lambda _: session)
    monkeypatch.setattr(resources, "pause", lambda _: None)
    monkeypatch.setattr(os, "setpriority", lambda _, pid, nice: given.append((pid, nice)))
    resources.raise_priority(77)
    assert given == [(77, resources.MOST_URGENT)]
    assert session.written == written


@pytest.mark.parametrize(("text", "expected"), [("/autogroup-25 nice 7\n", 7), ("", 0), (None, 0)])
def test_a_session_counts_only_where_it_has_a_priority(monkeypatch, tmp_path, text, expected) -> None:
    session = tmp_path / "autogroup"
    if text is not None:
        session.write_text(text)
    monkeypatch.setattr(resources, "_autogroup", lambda _: session)
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    assert resources.nice_of(77) == expected


def test_priority_is_raised_as_far_as_allowed_and_stays_where_that_is_refused(monkeypatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    assert resources.MOST_URGENT <= resources.allowed_nice() <= resources.nice_of(os.getpid())
    resources.allowed_nice.cache_clear()
    monkeypatch.setattr(os, "setpriority", refuse)
    try:
        assert resources.allowed_nice() == resources.nice_of(os.getpid())
    finally:
        resources.allowed_nice.cache_clear()
