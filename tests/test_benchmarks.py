"""What pytest-benchmark is told on the command line, in a process of its own."""

import json
import os
import subprocess
import sys

from conftest import ROOT


def run_pytest(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", *arguments]
    # Threads that wait for each other multiply the noise of a busy machine.
    environment = {"OPENBLAS_NUM_THREADS": "1"}
    # As a process of xdist, which the process of these tests may be, pytest-benchmark would time nothing.
    environment |= {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_the_cases_are_timed_on_request(tmp_path) -> None:
    options = ("--benchmark-only", "--benchmark-max-time=0.01", "--benchmark-min-rounds=2")
    done = run_pytest("tests/benchmarks", *options, f"--benchmark-json={tmp_path / 'times.json'}")
    assert done.returncode == 0, done.stdout
    timed = json.loads((tmp_path / "times.json").read_text())["benchmarks"]
    assert {f"test_latency[cnn-small-{size}-oracle/numpy]" for size in (1, 64)} <= {case["name"] for case in timed}
    assert all(case["stats"]["rounds"] >= 2 for case in timed)


def test_a_case_of_ones_own_needs_a_few_lines() -> None:
    file = ROOT / "tests" / "benchmarks" / "test_example.py"
    documented = (ROOT / "docs" / "bring-your-own.md").read_text()
    code = file.read_text()
    assert f"```python\n{code}```" in documented


def test_pytest_benchmark_and_the_harness_agree() -> None:
    """Fails by chance at most once in ten thousand runs; the script explains why."""
    done = run_pytest("tests/experiments/agreement.py", "--benchmark-enable")
    assert done.returncode == 0, done.stdout
    assert "pytest-benchmark / harness: " in done.stdout


def test_without_a_request_nothing_is_timed() -> None:
    done = run_pytest("tests/benchmarks")
    assert done.returncode == 0, done.stdout
    assert "OPS: Operations Per Second" not in done.stdout
