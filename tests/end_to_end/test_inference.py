"""One interleaved inference run over the real stacks."""

import csv

import pytest

from backends.registry import stacks
from tests.command_line import run_bench

SUITE = """\
name = "pair"
summary = "every stack once"
scenarios = ["latency", "throughput"]
models = ["cnn-small"]
batch_sizes = [64]
precisions = ["fp32"]
arms = ["pytorch/eager", "pytorch/channels_last", "ipex/jit", "tensorflow/graph", "itex/frozen", "openvino/latency",
        "openvino/throughput", "openvino/latency/bf16", "onnxruntime/session", "pytorch-latest/eager"]
baselines = ["pytorch/eager", "pytorch/channels_last", "tensorflow/graph"]
primary = ["ipex/jit", "itex/frozen"]
"""


@pytest.mark.xdist_group("many arms")
def test_a_run_over_the_real_stacks_measures_every_arm_and_agrees_with_the_oracle(tmp_path) -> None:
    (tmp_path / "pair.toml").write_text(SUITE)
    done = run_bench(tmp_path, "run", "--suite", "./pair.toml", "--preset", "smoke", "--name", "r")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "environments vanilla and ipex, " in done.stdout
    with (tmp_path / "results" / "r" / "speedups.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["stack"] for row in rows} == {stack.name for stack in stacks().values() if not stack.internal} - {
        "tensorflow", "tensorflow-latest",
    }  # fmt: skip
    assert {(row["variant"], row["scenario"]) for row in rows if row["stack"] == "openvino"} == {
        ("latency", "latency"), ("latency", "throughput"), ("throughput", "throughput"),
    }  # fmt: skip
    for row in rows:
        assert row["matched"] == ("unmatched" if row["stack"] == "pytorch-latest" else "matched")
        # The preset smoke claims nothing.
        assert row["verdict"] == "UNRESOLVED"
        assert float(row["speedup"]) > 0
        assert float(row["max_abs_logit_diff"]) < 1e-3
        assert row["accuracy"] == row["baseline_accuracy"]
    if rows[0]["data"] == "fashion-mnist":
        assert all(float(row["accuracy"]) >= 0.915 for row in rows)
