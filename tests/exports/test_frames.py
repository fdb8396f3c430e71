"""`bench.load`: what its frames hold, and that the documentation names every column with its type."""

import re
import subprocess
import sys

import pandas as pd
import pytest

import bench
from bench.analysis.speedups import speedups
from bench.exports.frames import FRAMES, to_parquet
from bench.records import Slice
from bench.suite.arms import Arm
from conftest import ROOT
from models.errors import UserError
from tests.analysis.recorded_run import BLOCKS, CASE, JIT, ROUNDS, inference_run, training_run


@pytest.fixture
def frames(tmp_path):
    builder = inference_run(tmp_path / "run")
    builder.change(Slice, lambda record: record.round == 1, steal_ns=10**6, watched_ns=10**6)
    return bench.load(builder.write())


def test_every_frame_has_a_row_for_each_of_its_units(frames) -> None:
    sizes = {name: len(getattr(frames, name)) for name in FRAMES}
    turns = 4 * BLOCKS * ROUNDS
    assert sizes == {
        "arms": 4, "speedups": 4, "slices": turns, "samples": turns, "blocks": 4 * BLOCKS, "ratios": 4 * BLOCKS,
    }  # fmt: skip
    assert frames.info.suite.name == "recorded"


def test_frames_agree_with_the_analysis_and_with_each_other(frames) -> None:
    first = speedups(frames.run)[0]
    row = frames.speedups.iloc[0]
    assert (row["stack"], row["baseline_variant"], row["verdict"]) == ("ipex", "compile", first.verdict.word)
    assert row["speedup"] == first.speedup
    own = frames.slices.query("arm == @JIT.id and block == 3 and round == 2").iloc[0]
    sample = frames.samples.query("arm == @JIT.id and block == 3 and round == 2").iloc[0]
    assert own["latency_us"] == sample["sample_us"]
    assert own["disturbed"] is not True
    assert frames.slices.query("round == 1")["disturbed"].all()
    medians = frames.blocks.query("arm == @JIT.id")["latency_us"].median()
    assert medians == pytest.approx(frames.run.typical_latency_ns(JIT, CASE) / 1e3)


def test_training_has_epochs_and_no_samples(tmp_path) -> None:
    frames = bench.load(training_run(tmp_path / "run").write())
    assert len(frames.samples) == 0
    assert frames.slices["samples"].isna().all()
    warm_up = frames.slices.query("round == 0")
    assert warm_up["latency_us"].isna().all()
    assert {name: str(kind) for name, kind in frames.samples.dtypes.items()} == documented("samples")


def documented(name: str) -> dict[str, str]:
    """Return the columns and types of a frame in docs/python.md."""
    page = (ROOT / "docs" / "python.md").read_text()
    section = page.partition(f"## `{name}`")[2].partition("\n## ")[0]
    return {
        column: kind
        for columns, kind in re.findall(r"^\| (`.*?`) \| (\w+) \|", section, re.MULTILINE)
        for column in re.findall(r"`([^`]+)`", columns)
    }


@pytest.mark.parametrize("name", FRAMES)
def test_columns_and_types_are_those_of_the_documentation(frames, name) -> None:
    assert {column: str(kind) for column, kind in getattr(frames, name).dtypes.items()} == documented(name)


def test_parquet_reads_back_as_the_same_frames(frames, tmp_path) -> None:
    for name, content in to_parquet(frames.run).items():
        (tmp_path / name).write_bytes(content)
        pd.testing.assert_frame_equal(
            pd.read_parquet(tmp_path / name), getattr(frames, name.removesuffix(".parquet")), check_categorical=False
        )


def test_no_run_is_a_value_error_that_says_where(tmp_path) -> None:
    with pytest.raises(UserError, match=r"run\.json: not there"):
        bench.load(tmp_path / "none")


def test_importing_bench_is_cheap() -> None:
    code = "import bench, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "bench" in loaded
    assert not {"pandas", "numpy", "bench.exports"} & set(loaded)


def test_names_are_categories_where_there_are_many_rows(frames) -> None:
    assert list(frames.samples["arm"].cat.categories) == sorted(frames.samples["arm"].unique())
    assert Arm("ipex", "jit").id in set(frames.samples["arm"])
