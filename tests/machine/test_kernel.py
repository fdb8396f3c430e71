"""No state of the kernel's files ends a run: every reader is tried with every file absent, refused or garbled."""

import ast
import errno
import inspect
import os
from functools import partial, partialmethod
from pathlib import Path

import psutil
import pytest

from bench.machine import counters, diagnosis, facts, kernel, resources
from conftest import ROOT

READING = (facts, resources, counters)
# How each public function that reads is called. The others change the process, or need nothing of the kernel.
READERS = {
    "describe": facts.describe,
    "cpu_info": facts.cpu_info,
    "load": facts.load,
    "frequency_hz": facts.frequency_hz,
    "highest_frequencies_hz": partial(facts.highest_frequencies_hz, [0, 1]),
    "instruction_sets": facts.instruction_sets,
    "cores_by_kind": facts.cores_by_kind,
    "arm_cores": facts.arm_cores,
    "usable_cores": facts.usable_cores,
    "physical_cores": facts.physical_cores,
    "threads_per_core": facts.threads_per_core,
    "siblings": partial(facts.siblings, 0),
    "nodes": facts.nodes,
    "node_of": partial(facts.node_of, 0),
    "usable_nodes": facts.usable_nodes,
    "turbo": facts.turbo,
    "power_source": facts.power_source,
    "container": facts.container,
    "control_group_files": partial(resources.control_group_files, "cpu.max", "cpu.cfs_quota_us"),
    "quota_cores": resources.quota_cores,
    "memory_available_bytes": resources.memory_available_bytes,
    "require_memory": partial(resources.require_memory, 0),
    "memory_used_bytes": partial(resources.memory_used_bytes, os.getpid()),
    "memory_used_by_all": partial(resources.memory_used_by_all, [os.getpid()]),
    "nice_of": partial(resources.nice_of, os.getpid()),
    "counters": counters.counters,
    "snapshot": counters.snapshot,
    "quiet_cores": partial(counters.quiet_cores, 1),
    "quiet_core_sets": partial(counters.quiet_core_sets, [1]),
    "static_findings": lambda: list(diagnosis.static_findings(1)),
    "current_findings": lambda: list(diagnosis.current_findings(0)),
}
OTHERS = {"allow_many_files", "raise_priority", "allowed_nice", "growth"}
GROUP = "/sys/fs/cgroup"
FILES = {
    "/proc/stat": "cpu 9 0 9 9 0 0 0 1\ncpu0 4 0 5 5 0 0 0 1\ncpu1 5 0 4 4 0 0 0 0\nintr 1\n",
    "/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n",
    "/proc/cpuinfo": "vendor_id : Intel\ncpu family : 6\nmodel : 143\nmodel name : Xeon\nflags : avx2\n\nmodel : 1\n",
    "/proc/self/cgroup": "0::/own\n4:cpu,cpuacct:/own\n5:memory:/own\n",
    f"{GROUP}/own/cpu.max": "150000 100000\n",
    f"{GROUP}/own/cpu.stat": "usage_usec 5\nthrottled_usec 7\n",
    f"{GROUP}/own/memory.max": "5000000\n",
    f"{GROUP}/own/memory.current": "1000000\n",
    f"{GROUP}/own/memory.stat": "inactive_file 5\n",
    f"{GROUP}/cpu/own/cpu.cfs_quota_us": "50000\n",
    f"{GROUP}/cpu/own/cpu.cfs_period_us": "100000\n",
    f"{GROUP}/cpu/own/cpu.stat": "throttled_time 7\n",
    f"{GROUP}/memory/own/memory.limit_in_bytes": "5000000\n",
    f"{GROUP}/memory/own/memory.usage_in_bytes": "1000000\n",
    f"{GROUP}/memory/own/memory.stat": "total_active_file 5\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "2000000\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/energy_performance_preference": "performance\n",
    "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3000000\n",
    "/sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": "3000000\n",
    "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0-1\n",
    "/sys/devices/system/cpu/intel_pstate/no_turbo": "0\n",
    "/sys/devices/system/cpu/cpufreq/boost": "1\n",
    "/sys/devices/system/node/node0/cpulist": "0-1\n",
    "/sys/devices/system/node/node1/cpulist": "\n",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
    "/sys/devices/cpu_core/cpus": "0\n",
    "/sys/devices/cpu_atom/cpus": "1\n",
    "/sys/class/power_supply/AC/scope": "System\n",
    "/sys/class/power_supply/AC/type": "Mains\n",
    "/sys/class/power_supply/AC/online": "1\n",
    "/sys/class/power_supply/BAT0/scope": "System\n",
    "/sys/class/power_supply/BAT0/type": "Battery\n",
    "/sys/class/power_supply/BAT0/status": "Charging\n",
    "/sys/firmware/acpi/platform_profile": "balanced\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "/proc/PID/statm": "9 5 0 0\n",
    "/proc/PID/autogroup": "/autogroup-25 nice 0\n",
}
UNKNOWN = (None, [], {}, ())
REFUSALS = (errno.ENOENT, errno.EBUSY, errno.EACCES, errno.EAGAIN, errno.EIO, errno.ENODEV, errno.EINVAL)
GARBAGE = (
    "",
    "\n",
    "\0",
    "\x1b[2J",
    "rubbish",
    "-1",
    "-1 -1",
    "0 0",
    "1 2 3 4",
    "9" * 30,
    "3-1",
    "0-99999999",
    "²",
    "::",
)


def of_the_kernel(path, real, fake, **options):
    """Call the fake of a method of paths for the kernel's files, and the real one for all others."""
    return fake(path) if str(path).startswith(("/proc/", "/sys/")) else real(path, **options)


class Machine:
    """A fake of the kernel's files, in which one may be refused or garbled."""

    def __init__(self, monkeypatch) -> None:
        self.files = {name.replace("PID", str(os.getpid())): text for name, text in FILES.items()}
        self.read, self.refused = set[str](), dict[str, OSError]()
        for name in ("read_text", "exists", "iterdir"):
            real, fake = getattr(Path, name), getattr(self, name)
            monkeypatch.setattr(Path, name, partialmethod(of_the_kernel, real, fake))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(psutil, "process_iter", lambda _: [])
        monkeypatch.setattr(diagnosis, "pause", lambda _: None)
        monkeypatch.setattr(diagnosis, "timer_resolution_ns", lambda: 1)
        monkeypatch.setattr(counters, "pause", lambda _: None)
        monkeypatch.setattr(facts, "allowed_nice", lambda: 0)

    def read_text(self, path):
        self.read.add(str(path))
        if error := self.refused.get(str(path)):
            raise error
        if str(path) not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return self.files[str(path)]

    def exists(self, path):
        # As pathlib does, for a folder that may not be searched.
        if isinstance(error := self.refused.get(str(path)), PermissionError):
            raise error
        return str(path) in self.files

    def iterdir(self, folder):
        if error := self.refused.get(str(folder)):
            raise error
        inside = [name.removeprefix(f"{folder}/").split("/")[0] for name in self.files if name.startswith(f"{folder}/")]
        if not inside:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(folder))
        return (folder / name for name in dict.fromkeys(inside))

    def read_all(self):
        """Call every reader; return what each returned."""
        resources.control_group_files.cache_clear()
        try:
            return {name: read() for name, read in READERS.items()}
        finally:
            resources.control_group_files.cache_clear()


@pytest.fixture
def machine(monkeypatch) -> Machine:
    return Machine(monkeypatch)


def test_every_public_function_that_reads_is_tried() -> None:
    public = {
        name
        for module in READING
        for name, function in inspect.getmembers(module, inspect.isroutine)
        if inspect.unwrap(function).__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == (READERS.keys() | OTHERS) - {"static_findings", "current_findings"}


def test_only_one_module_touches_the_kernels_files() -> None:
    touching = {"read_text", "read_bytes", "open", "exists", "is_file", "is_dir", "glob", "rglob", "stat", "iterdir"}
    found = {
        (path.stem, node.attr)
        for path in (ROOT / "bench" / "machine").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in touching
    }
    # The library that a compiler wrote is no file of the kernel.
    assert found == {
        ("kernel", "read_text"),
        ("kernel", "exists"),
        ("kernel", "iterdir"),
        ("compiler", "open"),
        ("compiler", "exists"),
    }


def test_the_whole_fake_machine_is_read(machine) -> None:
    found = machine.read_all()
    assert set(machine.files) <= machine.read
    assert found["usable_cores"] == found["physical_cores"] == found["usable_nodes"] == 1
    assert (found["quota_cores"], found["memory_available_bytes"], found["frequency_hz"]) == (
        0.5,
        4_000_005,
        2_000_000_000,
    )
    assert (found["turbo"], found["power_source"]) == (True, "mains")
    assert found["describe"].memory_bytes == 9000 * 1024
    assert (found["describe"].cpu, found["describe"].family, found["describe"].model) == ("Xeon", 6, 143)
    assert found["counters"].throttled_ns == 7007
    assert found["nodes"] == {0: [0, 1], 1: []}


def test_nothing_is_known_without_any_file(machine) -> None:
    machine.files.clear()
    found = machine.read_all()
    unknown = {name for name, value in found.items() if value in UNKNOWN}
    assert unknown >= {"frequency_hz", "turbo", "quota_cores", "memory_available_bytes", "power_source", "nodes"}
    assert found["instruction_sets"] is None
    assert found["counters"] == counters.Counters(None, 0, None)
    assert found["usable_cores"] == 2
    values = {finding.what: finding.value for finding in (*found["static_findings"], *found["current_findings"])}
    for what in ("Turbo", "Frequency governor", "Instruction sets", "Stolen by the host", "Memory available"):
        assert values[what] == "not exposed by the kernel"


@pytest.mark.parametrize("number", REFUSALS, ids=errno.errorcode.get)
def test_a_refused_file_or_folder_ends_nothing(machine, number) -> None:
    folders = {"/sys/class/power_supply", "/sys/devices/system/node"}
    for path in sorted({*machine.files, *folders}):
        machine.refused = {path: OSError(number, os.strerror(number), path)}
        machine.read_all()
    machine.refused = {path: OSError(number, os.strerror(number), path) for path in (*machine.files, *folders)}
    machine.read_all()


@pytest.mark.parametrize("text", GARBAGE, ids=ascii)
def test_a_garbled_file_ends_nothing(machine, text) -> None:
    intact = dict(machine.files)
    for path in intact:
        machine.files = intact | {path: text}
        machine.read_all()
    machine.files = {path: content.replace("0", text) for path, content in intact.items()}
    machine.read_all()
    machine.files = dict.fromkeys(intact, text)
    found = machine.read_all()
    shown = [finding.value for finding in found["static_findings"]]
    assert all(value.isprintable() for value in shown)


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0-3,8", [0, 1, 2, 3, 8]), ("5", [5]), ("", []), ("3-1", []), ("0,x", []), ("0-99999999", []), ("\0", [])],
)
def test_a_list_of_cores_is_read_as_a_whole_or_not_at_all(tmp_path, text, cores) -> None:
    (tmp_path / "list").write_text(text + "\n")
    assert kernel.read_cores(tmp_path / "list") == cores


@pytest.mark.parametrize(
    ("supplies", "source"),
    [
        ({}, None),
        ({"AC": {"type": "Mains", "online": "1"}}, "mains"),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, "battery"),
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": {"type": "Battery", "status": "Not charging"}}, "mains"),
        ({"mouse": {"type": "Battery", "status": "Discharging", "scope": "Device"}}, None),
        ({"UPS": {"type": "UPS"}}, None),
    ],
)
def test_the_power_source_is_that_of_the_machine(tmp_path, monkeypatch, supplies, source) -> None:
    for name, files in supplies.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text + "\n")
    monkeypatch.setattr(facts, "POWER_SUPPLIES", tmp_path)
    assert facts.power_source() == source
