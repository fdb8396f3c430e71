"""`bench doctor`, and the warnings of `bench run`: what can't be measured is named before measuring."""

from dataclasses import replace

import pytest

from bench.commands import doctor
from bench.commands.run import compile_obstacles
from bench.machine import compiler
from bench.suite.arms import Arm
from bench.suite.plan import make_plan
from tests.engine.conftest import PRESET, SUITE


@pytest.fixture
def obstacle(monkeypatch):
    """Let compiling fail, with a reason that names the environment."""
    monkeypatch.setattr(compiler, "compile_obstacle", lambda folder: f"no compiler for {folder and folder.name}")


def test_doctor_names_what_compiling_lacks_without_any_environment(obstacle, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BENCH_ENVIRONMENTS_DIR", str(tmp_path))
    (finding,) = doctor.compile_findings()
    assert finding.line == "torch.compile: can't work here; no compiler for None"


def test_a_run_warns_of_what_its_own_arms_lack(obstacle) -> None:
    plan = make_plan(SUITE, PRESET, seed=1, threads=1)
    assert compile_obstacles(plan) == []
    environment = plan.environments["oracle"]
    plan.environments["pytorch"] = plan.environments["ipex"] = environment
    compiled = (Arm("pytorch", "compile"), Arm("ipex", "compile"), Arm("pytorch", "eager"))
    (finding,) = compile_obstacles(replace(plan, arms=compiled))
    assert finding.advice == f"no compiler for {environment.folder.name}"
