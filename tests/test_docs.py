"""The examples in the documentation work, and its commands exist."""

import csv
import re
import shlex
import tomllib

import pytest
from typer.main import get_command

from bench.cli import app
from bench.suite.parse import load_suite
from conftest import ROOT
from models.weights import initial_weights, save_weights
from models.zoo import LAYERS, read_networks
from tests.analysis.recorded_run import inference_run

PAGES = [*(ROOT / f"{name}.md" for name in ("README", "AGENTS", "CHANGELOG")), *sorted((ROOT / "docs").glob("*.md"))]
BRING = (ROOT / "docs" / "bring-your-own.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text, language) -> list[str]:
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def example(name) -> str:
    """Return the block that begins with a comment with this name."""
    (code,) = (code for _, code in BLOCK.findall(BRING) if code.startswith(f"# {name}\n"))
    return code


def documented_commands() -> dict[str, list[str]]:
    """Return the words after `bench` of every command in a block for a shell, by what is written."""
    lines = [line for page in PAGES for code in blocks(page.read_text(), "sh") for line in code.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return {" ".join(line): line[line.index("bench") + 1 :] for line in words if "bench" in line}


COMMANDS = documented_commands()


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_documented_command_and_its_options_exist(arguments) -> None:
    name, *rest = arguments
    command = get_command(app).commands[name]
    command.make_context(name, rest)


@pytest.mark.parametrize("name", ["list", "models", "doctor"])
def test_a_documented_command_that_only_shows_something_runs(bench, name) -> None:
    done = bench(*next(words for text, words in COMMANDS.items() if text.startswith(f"python -m bench {name}")))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["report", "verify", "withdraw"])
def test_a_documented_command_about_a_finished_run_runs(bench, tmp_path, name) -> None:
    (tmp_path / "results").mkdir()
    for folder in ("latest", "NAME"):
        inference_run(tmp_path / "results" / folder).write()
    done = bench(*next(words for words in COMMANDS.values() if words[0] == name))
    assert done.returncode == 0, done.stdout + done.stderr


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        text = page.read_text()
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", text):
            file = page.parent / target if target else page
            assert file.exists(), f"{page.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
                assert anchor in slugs, f"{page.name}: {target}#{anchor}"


def test_the_network_of_the_example_is_shown(bench, tmp_path) -> None:
    (tmp_path / "my_models").mkdir()
    file = tmp_path / "my_models" / "cnn-mine.toml"
    file.write_text("".join(line for line in example("cnn-mine.toml").splitlines(True) if "weights =" not in line))
    network = read_networks(file.parent)["cnn-mine"]
    save_weights(file.with_suffix(".safetensors"), initial_weights(network, 0), {})
    file.write_text(example("cnn-mine.toml"))
    done = bench("models", "cnn-mine", BENCH_MODELS="my_models")
    assert done.returncode == 0, done.stderr
    assert {type(layer) for layer in network.layers} == set(LAYERS.values())
    assert f"{network.parameters:,}" in done.stdout


def test_the_suite_of_the_example_is_read(tmp_path) -> None:
    (tmp_path / "mine.toml").write_text(example("mine.toml"))
    suite = load_suite(str(tmp_path / "mine.toml"))
    assert [arm.id for arm in suite.arms] == ["pytorch/eager", "pytorch/compile", "ipex/jit", "ipex/jit/bf16"]


def test_the_backend_of_the_example_is_measured(bench, tmp_path) -> None:
    (tmp_path / "my_backends").mkdir()
    (tmp_path / "my_backends" / "mine.py").write_text(example("mine.py"))
    (tmp_path / "compare.toml").write_text(example("compare.toml"))
    (words,) = (words for text, words in COMMANDS.items() if text.startswith("BENCH_BACKENDS="))
    done = bench(*words, "--data", "synthetic", "--name", "r", BENCH_BACKENDS="my_backends")
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "results" / "r" / "speedups.csv").open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["stack"] == "mine")
    assert (row["baseline_stack"], float(row["max_abs_logit_diff"])) == ("oracle", 0)


def test_the_citation_and_the_changelog_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()
