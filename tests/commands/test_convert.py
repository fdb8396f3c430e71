"""`bench convert`: its files and its errors."""

import pytest

from bench.commands.stored_run import FORMATS
from tests.analysis.recorded_run import JIT, inference_run


@pytest.fixture
def run(tmp_path):
    return inference_run(tmp_path / "run").write()


def test_every_format_has_a_folder_of_its_own(bench, run) -> None:
    done = bench("convert", "run", "--to", ",".join(FORMATS))
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.name for path in (run / "exports").iterdir()} == set(FORMATS)
    assert "trace: run/exports/trace" in done.stdout
    assert not list(run.rglob("*partial*"))


def test_another_folder_can_be_named_and_arms_without_valid_times_are_said(bench, tmp_path) -> None:
    inference_run(tmp_path / "run").remove(lambda record: getattr(record, "arm", "") == JIT.id).write()
    done = bench("convert", "run", "--to", "pyperf", "--output", "elsewhere")
    assert "ipex jit, cnn-small, latency, batch 1: left out: " in done.stdout
    assert (tmp_path / "elsewhere" / "pyperf" / "pytorch-eager.json").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "--to", "excel"], "unknown format 'excel'; allowed: pyperf, pytest-benchmark"),
        (["run"], "--to: name one or more of pyperf"),
        (["nowhere", "--to", "trace"], "nowhere/run.json: not there"),
        (["run", "--to", "trace", "--output", "run/run.json"], "name another --output"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(bench, run, arguments, reason) -> None:
    before = sorted(run.rglob("*"))
    done = bench("convert", *arguments)
    assert reason in done.stderr
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sorted(run.rglob("*")) == before
