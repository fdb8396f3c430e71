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
    monkeypatch.setattr(machine, "_control_group_files", lambda *_: [tmp_path / name])
    assert machine._quota_cores() == cores
    assert machine.usable_cores() >= 1


@pytest.mark.parametrize(
    ("text", "throttled_ns"),
    [("nr_throttled 1\nthrottled_usec 7\n", 7000), ("throttled_time 9\n", 9), ("nr_periods 0\n", 0)],
)
def test_throttling_is_read_in_both_versions(tmp_path, monkeypatch, text, throttled_ns) -> None:
    (tmp_path / "cpu.stat").write_text(text)
    monkeypatch.setattr(machine, "_control_group_files", lambda *_: [tmp_path / "cpu.stat"])
    assert machine.counters().throttled_ns == throttled_ns


def test_steal_never_runs_backwards() -> None:
    assert machine.counters().steal_ns <= machine.counters().steal_ns
