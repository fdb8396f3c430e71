"""The orchestrator imports no framework, the worker little more than NumPy, and `--help` nothing heavy."""

import json
import subprocess
import sys

import pytest

FRAMEWORKS = {
    "torch",
    "intel_extension_for_pytorch",
    "tensorflow",
    "intel_extension_for_tensorflow",
    "openvino",
    "onnxruntime",
    "onnx",
}
ORCHESTRATOR = [
    "bench.cli", "bench.commands.run", "bench.commands.train", "bench.engine.run", "bench.analysis.speedups",
    "bench.training.train", "bench.report.sections", "bench.report.plots", "bench.report.tables",
    "bench.report.run_report", "bench.commands.compare", "bench.commands.bundle",
]  # fmt: skip


def imported_by(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in json.loads(output.splitlines()[-1])}


def blocked(statement: str) -> str:
    """Return code that runs `statement` where importing a framework raises."""
    return f"import sys; sys.modules.update(dict.fromkeys({sorted(FRAMEWORKS)}, None)); {statement}"


@pytest.mark.parametrize("module", ORCHESTRATOR)
def test_the_orchestrator_runs_where_no_framework_can_be_imported(module) -> None:
    code = blocked(f"import {module}; from backends.registry import stacks; stacks()")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_worker_imports_the_standard_library_numpy_backends_and_models_only() -> None:
    allowed = set(sys.stdlib_module_names) | {"numpy", "backends", "models", "bench", "__main__"}
    plain = imported_by("pass")  # whatever the interpreter's own site loads
    found = imported_by("import bench.worker.__main__") - allowed - plain
    assert {name for name in found if "cython" not in name} == set()  # NumPy's compiled parts register themselves


def test_of_the_harness_the_worker_imports_its_own_room_the_clock_and_the_codec_only() -> None:
    code = "import bench.worker.__main__, sys; print(sorted(name for name in sys.modules if name.startswith('bench')))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names = (
        "__main__", "inference", "load_workers", "loadgen", "messages", "network", "process", "timing", "training",
    )  # fmt: skip
    modules = ["bench", "bench.clock", "bench.codec", "bench.worker", *(f"bench.worker.{name}" for name in names)]
    assert output.strip() == str(modules)


def test_help_imports_nothing_heavy() -> None:
    heavy = {"numpy", "pandas", "scipy", "matplotlib", "jinja2", "pooch", "requests"}
    assert imported_by("import bench.cli") & heavy == set()


def test_nothing_that_only_a_report_needs_is_imported_while_a_run_is_measured() -> None:
    found = imported_by("import bench.commands.run, bench.engine.run, bench.report.run_report, bench.machine.diagnosis")
    assert found & {"pandas", "scipy", "matplotlib", "jinja2", "sklearn", "PIL"} == set()
