"""What the shell completes, as the shells ask for it."""

import json
import os
import subprocess
import sys

import pytest
from typer.completion import get_completion_script

from bench.analysis.latency import AS_IT_WAS, AT_REST
from bench.cli import complete
from bench.cli.options import JSON_COMMANDS
from bench.commands.stored_run import FORMATS
from bench.exports.outputs import OUTPUTS
from bench.suite.parse import suite_names
from conftest import ROOT
from tests.analysis.recorded_run import inference_run

VARIABLE = "_BENCH_COMPLETE"


@pytest.fixture
def completed(bench):
    """Return what bash is offered for the last of these words."""

    def complete_line(line: str) -> list[str]:
        asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), VARIABLE: "complete_bash"}
        done = bench(**asked)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    return complete_line


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("bench rep", ["report"]),
        ("bench run --pre", ["--preset", "--precision"]),
        ("bench run --js", ["--json"]),
        ("bench run --preset s", ["smoke", "standard"]),
        ("bench run --suite inf", ["inference", "inference-full"]),
        ("bench run --stack open", ["openvino"]),
        ("bench run --stack ipex,py", ["ipex,pytorch", "ipex,pytorch-latest"]),
        ("bench run --stack ipex,ip", []),
        ("bench run --environments lat", ["latest"]),
        ("bench run --model cnn-b", ["cnn-bn"]),
        ("bench run --precision fp32,", ["fp32,bf16", "fp32,int8"]),
        ("bench run --isa ", ["no-amx"]),
        ("bench run --data s", ["synthetic"]),
        ("bench train --recipe ada", ["adam"]),
        ("bench train --recipe adam --stack ipex --variant ", ["train", "train-ccl"]),
        ("bench evaluate model.safetensors --arms itex/fro", ["itex/frozen"]),
        ("bench convert results/latest --to py", ["pyperf", "pytest-benchmark"]),
        ("bench report --rule as", ["as-it-was"]),
        ("bench models cnn-v", ["cnn-vgg"]),
    ],
)
def test_commands_options_and_names_are_completed(completed, line, offered) -> None:
    assert completed(line) == offered


def test_runs_are_completed_by_folder_and_by_name(completed, tmp_path) -> None:
    for name in ("results/one", "results/two", "elsewhere/three"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        inference_run(tmp_path / name).write()
    (tmp_path / "results" / "not-a-run").mkdir()
    (tmp_path / "results" / "latest").symlink_to("two")
    assert completed("bench report ") == ["results/latest", "results/one", "results/two"]
    assert completed("bench compare results/one elsewhere/") == ["elsewhere/three"]
    assert completed("bench run --resume ") == ["one", "two"]
    assert completed("bench run --results elsewhere --resume ") == ["three"]


def test_what_is_offered_is_what_the_commands_take() -> None:
    """Completion repeats these names, as importing their modules takes long."""
    assert complete.formats() == list(FORMATS)
    assert complete.rules() == [AT_REST, AS_IT_WAS]
    assert complete.suites() == sorted(suite_names())
    assert set(OUTPUTS) == JSON_COMMANDS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "too_heavy"),
    [("bench run --stack ", set()), ("bench run --suite ", {"numpy"}), ("bench run --pre", {"numpy"})],
)
def test_a_shell_does_not_wait_for_heavy_imports(shell, line, too_heavy) -> None:
    asked = {
        VARIABLE: f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1),
        "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    code = (
        "import atexit, json, sys; from bench.cli import main; "
        "atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr)); main()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | asked, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip()
    imported = {name.split(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert imported & ({"pandas", "scipy", "matplotlib", "pydantic", "rich", "jinja2"} | too_heavy) == set()


def test_the_script_for_bash_completes_a_line(tmp_path) -> None:
    """By the function that bash calls after a Tab."""
    program = tmp_path / "bench"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bench "$@"\n')
    program.chmod(0o755)
    script = get_completion_script(prog_name="bench", complete_var=VARIABLE, shell="bash")  # noqa: S604 - it is the name of one
    line = 'COMP_WORDS=(bench run --preset qu); COMP_CWORD=3; _bench_completion bench; echo "${COMPREPLY[@]}"'
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{line}"], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["quick"]


def test_the_script_can_be_shown(bench) -> None:
    shown = bench("--show-completion", SHELL="/bin/bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="")
    assert "_BENCH_COMPLETE=complete_" in shown.stdout or shown.returncode != 0
