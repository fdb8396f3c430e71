"""`bench selftest`: what it prints and stores."""

import json
from dataclasses import replace
from io import StringIO

from rich.console import Console

from bench.commands import selftest as commands
from bench.suite import selftest as suites
from bench.suite.schedule import PRESETS
from bench.suite.user_variables import UserVariables
from tests.shortened import IMAGES, shorten_preparations


def test_a_stack_without_environment_is_one_line(bench, tmp_path) -> None:
    done = bench("selftest", "--stack", "ipex", BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "tox -r -e ipex --notest" in done.stderr


def test_the_command_prints_every_trial_and_stores_it(tmp_path, monkeypatch) -> None:
    """Two blocks give no interval, so that every comparison fails."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    preset = replace(PRESETS["selftest"], blocks=2, rounds=1, further_rounds=0, warm_up_limit_ns=0)
    monkeypatch.setitem(PRESETS, "selftest", preset)
    monkeypatch.setattr(suites, "TRIAL_BATCH_SIZES", (1,))
    monkeypatch.setattr(suites, "SLOWDOWNS", (0.02, 9.0))
    shorten_preparations(IMAGES, monkeypatch.setattr)
    console = Console(record=True, width=200, file=StringIO())
    assert commands.run_selftest("oracle", tmp_path / "results", "s", console, UserVariables()) == 1
    folder = tmp_path / "results" / "s"
    stored = json.loads((folder / "selftest.json").read_text())
    assert stored["machine"]["cores"] >= 1
    by_kind = {trial["what"].split(",")[0]: trial["passed"] for trial in stored["trials"]}
    assert by_kind.keys() >= {"Timer resolution", "A/A", "Slowed down by 2%", "Slowed down by 900%"}
    assert by_kind["Timer resolution"]
    assert not by_kind["Slowed down by 900%"]
    printed = console.export_text()
    assert "PASS" in printed
    assert "FAIL" in printed
    assert not (tmp_path / "results" / "latest").exists()
