import os
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from backends.protocol import ProofError
from bench.worker import process


def test_a_process_is_pinned_to_equal_cores_only_once(monkeypatch) -> None:
    """A framework may have bound the thread since; setting the affinity again would undo that."""
    calls = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: calls.append(arguments))
    process.pin_to_cores.cache_clear()
    for cores in ((0, 1), (0, 1), None, (2,)):
        process.pin_to_cores(cores)
    assert calls == [(0, (0, 1)), (0, (2,))]
    process.pin_to_cores.cache_clear()


def test_a_thread_is_bound_again_after_it_was_unbound(monkeypatch) -> None:
    masks = [{0}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: masks[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: masks.append(set(cores)))
    with suppress(RuntimeError), process.unbound((0, 1)):
        raise RuntimeError
    assert masks == [{0}, {0, 1}, {0}]


def test_a_thread_that_a_library_binds_meanwhile_stays_bound(monkeypatch) -> None:
    masks = [{0, 1}]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: masks[-1])
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: masks.append(set(cores)))
    with process.unbound((0, 1)):
        os.sched_setaffinity(0, {0})
    assert masks[-1] == {0}


def test_a_library_that_the_loader_skipped_fails_the_proof(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    process.require_preloaded()
    monkeypatch.setenv("LD_PRELOAD", f":{tmp_path / 'libmissing.so'}")
    with pytest.raises(ProofError, match=r"libmissing\.so was not preloaded"):
        process.require_preloaded()


def test_a_library_that_is_mapped_counts_as_preloaded(monkeypatch) -> None:
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = next(line.split()[-1] for line in lines if ".so" in line)
    monkeypatch.setenv("LD_PRELOAD", mapped)
    process.require_preloaded()


def test_the_framework_of_another_stack_fails_the_proof(monkeypatch) -> None:
    for name in ("torch", "tensorflow", "openvino"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys)
    process.require_no_other_framework("pytorch")
    with pytest.raises(ProofError, match="the process has imported torch as well"):
        process.require_no_other_framework("tensorflow")


def test_peak_memory_includes_memory_that_was_freed() -> None:
    before = process.peak_memory_bytes()
    block = bytearray(before + (64 << 20))
    del block
    assert process.peak_memory_bytes() >= before + (64 << 20)


@pytest.mark.parametrize("status", ["", "Name:\tpython\nVmRSS:\t5 kB\n", "VmHWM:\n", "VmHWM:\tmuch kB\n", OSError()])
def test_peak_memory_is_that_of_the_resource_usage_where_the_kernel_tells_nothing_else(monkeypatch, status) -> None:
    def read(_):
        if isinstance(status, OSError):
            raise status
        return status

    monkeypatch.setattr(Path, "read_text", read)
    assert process.peak_memory_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_involuntary_switches_never_decrease() -> None:
    first = process.involuntary_switches()
    assert process.involuntary_switches() >= first >= 0


def test_allocations_fail_beyond_the_limit() -> None:
    code = (
        "import numpy as np\n"
        "from bench.worker.process import limit_memory\n"
        "limit_memory(1 << 28)\n"
        "np.ones(1 << 27, np.uint8)\n"
        "try:\n"
        "    np.ones(1 << 29, np.uint8)\n"
        "except MemoryError:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "refused\n"
