"""Facts are read from the kernel's files."""

import os

import pytest

from bench.machine import facts


def test_the_machine_is_described() -> None:
    described = facts.describe()
    assert described.cpu
    assert 1 <= described.usable_cores <= described.cores
    assert described.memory_bytes > 1e8


def test_the_cpu_is_described_by_what_the_kernel_says_of_its_first_core(tmp_path, monkeypatch) -> None:
    text = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: A: B\n"
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(facts, "CPU_INFO", file)
    file.write_text(f"{text}flags\t\t: sse hypervisor amx_tile avx2\n\n{text}flags\t\t: avx512f\n\n")
    cpu = facts.describe()
    assert (cpu.cpu, cpu.vendor, cpu.family, cpu.model) == ("A: B", "GenuineIntel", 6, 143)
    assert (cpu.virtual, cpu.instruction_sets) == (True, ("avx2", "amx_tile"))
    file.write_text("Processor\t: ARMv7\n")
    cpu = facts.describe()
    assert (cpu.vendor, cpu.family, cpu.model, cpu.instruction_sets) == ("unknown", None, None, ())


@pytest.mark.parametrize(("siblings", "count"), [("0", 1), ("0,64", 2), ("0-1", 2), ("0-3", 4)])
def test_the_threads_per_core_are_counted(tmp_path, monkeypatch, siblings, count) -> None:
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
def test_physical_cores_are_counted_among_the_usable_ones(tmp_path, monkeypatch, mask, siblings, count) -> None:
    for core, listed in enumerate(siblings):
        (tmp_path / f"cpu{core}/topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}/topology/thread_siblings_list").write_text(listed + "\n")
    monkeypatch.setattr(facts, "CPU", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    assert facts.physical_cores() == count


@pytest.mark.parametrize(
    ("files", "mask", "allowed"),
    [
        ({}, {0, 1}, {0, 1}),
        ({"core": "0-3", "atom": "4-7"}, {2, 3, 4, 5}, {2, 3}),
        ({"core": "0-3", "atom": "4-7"}, {6, 7}, {6, 7}),
    ],
)
def test_arms_use_one_kind_of_core(tmp_path, monkeypatch, files, mask, allowed) -> None:
    for kind, text in files.items():
        (tmp_path / kind).write_text(text + "\n")
    monkeypatch.setattr(facts, "FAST_CORES", tmp_path / "core")
    monkeypatch.setattr(facts, "EFFICIENT_CORES", tmp_path / "atom")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: mask)
    assert facts.arm_cores() == allowed
    assert facts.cores_by_kind()[0] == ({0, 1, 2, 3} if files else set())
