"""Diagnosis: findings that disturb measurements come with advice."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from bench.clock import cpu_ns_of
from bench.machine import counters, diagnosis, facts, resources
from bench.machine.counters import Counters
from bench.machine.facts import Machine


@pytest.fixture
def calm(monkeypatch):
    """Fake an idle machine; return a function that sets how far its counters advance, and returns the findings."""

    def count(*, steal_ns=0, throttled_ns=0, busy_ns=0, share=1.0):
        readings = iter([Counters(0, 0, 0), Counters(steal_ns, throttled_ns, busy_ns)])
        clock = iter([0, int(1e9 * share)])
        monkeypatch.setattr(counters, "counters", lambda _: next(readings))
        monkeypatch.setattr(diagnosis, "now_ns", lambda: next(clock))
        monkeypatch.setattr(diagnosis, "pause", lambda _: None)
        monkeypatch.setattr(diagnosis.os, "sched_getaffinity", lambda _: {0, 1})
        return {finding.what: finding for finding in diagnosis.current_findings()}

    return count


def test_an_idle_machine_needs_no_advice(calm) -> None:
    findings = calm().values()
    assert not [finding for finding in findings if finding.advice and finding.what != "Memory available"]


def test_other_work_is_named_with_its_share(calm) -> None:
    busy = calm(busy_ns=500_000_000)["Cores busy with other work"]
    assert busy.value.startswith("25.0%")
    assert busy.advice == "stop it, or expect wider intervals"


def test_steal_and_throttling_come_with_advice(calm) -> None:
    findings = calm(steal_ns=100_000_000, throttled_ns=3_000_000)
    assert findings["Stolen by the host"].value == "5.0%"
    assert "--preset publish" in findings["Stolen by the host"].advice
    assert "stop other work" in findings["Throttled by the control group"].advice


@pytest.mark.parametrize(
    ("finding", "advice"),
    [
        (diagnosis._governor("powersave"), "cpupower frequency-set -g performance"),
        (diagnosis._governor("performance"), ""),
        (diagnosis._governor(None), ""),
        (diagnosis._turbo(on=True), "switch it off: echo "),
        (diagnosis._turbo(on=False), ""),
        (diagnosis._numa(2), "numactl --cpunodebind=0 --membind=0"),
        (diagnosis._numa(1), ""),
        (diagnosis._priority(0), "CAP_SYS_NICE"),
        (diagnosis._priority(-20), ""),
        (diagnosis._clock("hpet"), "echo tsc | sudo tee /sys/devices/system/clocksource/"),
        (diagnosis._clock("tsc"), ""),
        (diagnosis._quota(2.0, 8), "--cpuset-cpus"),
        (diagnosis._quota(1.5, 8), "whole cores"),
        (diagnosis._quota(8.0, 8), ""),
        (diagnosis._memory(2_000_000_000), "fewer arms"),
        (diagnosis._memory(64_000_000_000), ""),
        (diagnosis._instruction_sets([]), "need AVX2"),
        (diagnosis._instruction_sets(["avx2"]), ""),
    ],
)  # fmt: skip
def test_advice_names_a_remedy(finding, advice) -> None:
    assert (advice in finding.advice) if advice else not finding.advice


def test_siblings_and_fractional_quotas_get_advice(monkeypatch) -> None:
    monkeypatch.setattr(facts, "physical_cores", lambda: 4)
    monkeypatch.setattr(facts, "usable_cores", lambda: 8)
    monkeypatch.setattr(resources, "quota_cores", lambda: 2.5)
    cores, quota = diagnosis._cores(8)
    assert "--threads 4" in cores.advice
    assert not next(diagnosis._cores(4)).advice
    assert "whole cores" in quota.advice


@pytest.mark.parametrize(
    ("field", "value", "remedy"),
    [
        ("power_source", "battery", "connect the mains"),
        ("power_source", "mains", ""),
        ("power_profile", "low-power", "powerprofilesctl set performance"),
        ("power_profile", "balanced", ""),
        ("energy_preference", "balance_power", "cpupower set --epp performance"),
        ("energy_preference", "performance", ""),
    ],
)
def test_what_saves_power_comes_with_a_remedy(field, value, remedy) -> None:
    (finding,) = diagnosis._power(Machine("CPU", 1, 1, **{field: value}))
    assert finding.value == value
    assert (remedy in finding.advice) if remedy else not finding.advice


@pytest.mark.parametrize(
    ("kinds", "frequencies", "mask", "value", "remedy"),
    [
        (({0, 1}, {2, 3}), [], {0, 1, 2}, "2 fast and 2 efficient ones; arms run on fast ones", ""),
        (({0, 1}, {2, 3}), [], {2, 3}, "2 fast and 2 efficient ones", "let it use fast ones"),
        ((set(), set()), [5_000_000_000, 3_000_000_000], {0, 1}, "3.0 to 5.0 GHz", "taskset --cpu-list"),
        ((set(), set()), [5_000_000_000, 4_800_000_000], {0, 1}, None, ""),
        ((set(), set()), [], {0, 1}, None, ""),
    ],
)
def test_cores_of_two_kinds_are_named(monkeypatch, kinds, frequencies, mask, value, remedy) -> None:
    monkeypatch.setattr(facts, "cores_by_kind", lambda: kinds)
    monkeypatch.setattr(facts, "arm_cores", lambda: mask & kinds[0] or mask)
    monkeypatch.setattr(facts, "highest_frequencies_hz", lambda _: frequencies)
    found = list(diagnosis._kinds_of_cores())
    assert [value in finding.value for finding in found] == [True] * (value is not None)
    assert [remedy in finding.advice for finding in found if remedy] == [True] * bool(remedy)


def test_a_temporary_folder_that_is_full_or_not_there_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(diagnosis.compiler, "temporary_folder", lambda: tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: SimpleNamespace(free=5e9))
    assert diagnosis._temporary_folder() == diagnosis.Finding("Temporary folder", f"{tmp_path}, 5.0 GB free")
    monkeypatch.setattr(diagnosis.shutil, "disk_usage", lambda _: SimpleNamespace(free=2e8))
    assert "free 1 GB there, or set TMPDIR" in diagnosis._temporary_folder().advice
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    assert f"TMPDIR={tmp_path / 'none'} is no folder that can be written" in diagnosis._temporary_folder().advice


def test_doctor_shows_the_machine_and_the_environments(bench, tmp_path) -> None:
    done = bench("doctor", BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Instruction sets" in done.stdout
    assert "make those you need: tox -e vanilla,ipex,itex,onnxruntime,openvino,latest --notest" in done.stdout.replace(
        "\n", " "
    )
    assert "Temporary folder" in done.stdout
    assert "torch.compile" in done.stdout


def test_a_process_that_keeps_a_core_busy_is_named(monkeypatch) -> None:
    """The clock is the process's own CPU time, and it is stopped while it is read: no other work can matter."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def spent_ns() -> int:
        return cpu_ns_of(busy.pid)

    def run_for(duration_ns: int) -> None:
        end = spent_ns() + duration_ns
        busy.send_signal(signal.SIGCONT)
        while spent_ns() < end:
            time.sleep(0.001)
        stop()

    def stop() -> None:
        busy.send_signal(signal.SIGSTOP)
        os.waitpid(busy.pid, os.WUNTRACED)

    stop()
    process = next(process for process in psutil.process_iter(["name"]) if process.pid == busy.pid)
    monkeypatch.setattr(psutil, "process_iter", lambda _: [process])
    monkeypatch.setattr(psutil, "_timer", lambda: spent_ns() / 1e9)
    monkeypatch.setattr(counters, "counters", lambda _: Counters(0, 0, spent_ns()))
    monkeypatch.setattr(diagnosis, "now_ns", spent_ns)
    monkeypatch.setattr(diagnosis, "pause", run_for)
    monkeypatch.setattr(diagnosis.os, "sched_getaffinity", lambda _: {0, 1})
    try:
        finding = next(diagnosis.current_findings())
    finally:
        busy.kill()
        busy.wait()
    assert finding.what == "Cores busy with other work"
    assert finding.value == f"50.0%, most of it by {process.info['name']}"
    assert finding.advice


@pytest.mark.parametrize(
    ("shares", "culprit"),
    [
        ((90, 5), ", most of it by a"),
        ((40, 35), ", the largest part by a"),
        ((1, 2), ""),
        ((5, 99), ", most of it by b"),
    ],
)
def test_the_process_that_used_most_is_named(shares, culprit) -> None:
    processes = [(share, SimpleNamespace(info={"name": name})) for share, name in zip(shares, "ab", strict=True)]
    assert diagnosis._busy(1.0, 2, processes).value == f"50.0%{culprit}"
