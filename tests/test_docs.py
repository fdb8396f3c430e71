"""The examples in the documentation work, and its commands exist."""

import configparser
import csv
import json
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise, takewhile

import pytest
from jsonschema_rs import Draft202012Validator
from typer.main import get_command

from bench.cli import app
from bench.suite.parse import load_suite
from conftest import ROOT
from models.weights import initial_weights, save_weights
from models.zoo import LAYERS, read_networks
from tests.analysis.recorded_run import inference_run
from tests.json_schema import FOLDER

PAGES = [*(ROOT / f"{name}.md" for name in ("README", "AGENTS", "CHANGELOG")), *sorted((ROOT / "docs").glob("*.md"))]
BRING = (ROOT / "docs" / "bring-your-own.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text, language) -> list[str]:
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def example(name) -> str:
    """Return the block that begins with a comment with this name."""
    (code,) = (code for _, code in BLOCK.findall(BRING) if code.startswith(f"# {name}\n"))
    return code


def documented_lines() -> list[list[str]]:
    """Return the words of every line in a block for a shell."""
    lines = [line for page in PAGES for code in blocks(page.read_text(), "sh") for line in code.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def up_to_operator(words) -> list[str]:
    """Return the words of the first command of a line."""
    return list(takewhile(lambda word: word not in ("|", ">", "&&"), words))


def documented_commands() -> dict[str, list[str]]:
    """Return the words after `bench` of every command of it, by what is written."""
    found = {}
    for words in documented_lines():
        places = [index for index, word in enumerate(words) if word == "bench" or word.endswith("/bin/bench")]
        if places:
            found[" ".join(words)] = up_to_operator(words[places[0] + 1 :])
    return found


COMMANDS = documented_commands()
TOX_COMMANDS = [up_to_operator(words) for words in documented_lines() if words[0] == "tox"]
# What these do needs no stack and takes a moment. All others measure or train.
QUICK = ("list", "models", "doctor", "report", "verify", "withdraw", "compare", "history", "convert")
# Those with variables need files of the user.
EXECUTED = {text: words for text, words in COMMANDS.items() if words[0] in QUICK and not text.startswith("BENCH_")}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_documented_command_and_its_options_exist(arguments) -> None:
    name, *rest = arguments
    command = get_command(app)
    if name.startswith("-"):
        assert name in {option for parameter in command.params for option in parameter.opts}
    else:
        command.commands[name].make_context(name, rest)


@pytest.mark.parametrize("words", TOX_COMMANDS, ids=" ".join)
def test_a_documented_call_of_tox_names_environments_and_options_that_exist(words) -> None:
    own, _, rest = " ".join(words).partition(" -- ")
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "tox.ini")
    names = {section.partition(":")[2] for section in configuration.sections()}
    options = own.split()[1:]
    for option, value in pairwise(options):
        if option == "-e":
            assert set(value.split(",")) <= names
        elif option == "-m":
            assert f"{value} =" in configuration["tox"]["labels"]
    # The other environments have options of their own.
    if rest and "tests" not in options and "benchmark" not in own:
        get_command(app).commands["run"].make_context("run", shlex.split(rest))


@pytest.mark.parametrize(
    "arguments",
    EXECUTED.values(),
    ids=EXECUTED,
)
def test_a_documented_command_about_what_is_there_runs(bench, tmp_path, arguments) -> None:
    """On recorded runs in every folder that the command names."""
    named = [word for word in arguments if word.startswith("results/")]
    for index, folder in enumerate(named or ["results/a", "results/b"]):
        (tmp_path / folder).parent.mkdir(exist_ok=True)
        inference_run(tmp_path / folder, seed=index).describe(started=f"2026-01-0{index + 1}").write()
    if arguments[-2:-1] == ["--output"] and arguments[0] == "convert":
        arguments = [*arguments[:-1], "out"]
    done = bench(*arguments)
    assert done.returncode == 0, done.stderr
    assert "--json" in arguments or not done.stderr


@pytest.mark.parametrize("page", ["docs/python.md", "docs/results.md"])
def test_the_python_in_the_documentation_runs(tmp_path, monkeypatch, page) -> None:
    """In a folder with a run and the schemas."""
    for folder in ("latest", "reference"):
        (tmp_path / "results").mkdir(exist_ok=True)
        inference_run(tmp_path / "results" / folder).write()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    codes = blocks((ROOT / page).read_text(), "python")
    assert codes
    for code in codes:
        exec(compile(code, page, "exec"), {})  # noqa: S102 - it is that of this project


def test_the_line_for_agents_prints_the_primary_rows(bench, tmp_path) -> None:
    (tmp_path / "results").mkdir()
    inference_run(tmp_path / "results" / "latest").write()
    assert bench("report", "results/latest").returncode == 0
    (words,) = (words for words in documented_lines() if words[:2] == ["python", "-c"])
    done = subprocess.run([sys.executable, "-c", words[2]], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("('ipex', '")
    assert "FASTER" in done.stdout


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
    done = bench(*words, "--data", "synthetic", "--name", "r", "--json", BENCH_BACKENDS="my_backends")
    assert done.returncode == 0, done.stdout + done.stderr
    printed = json.loads(done.stdout)
    assert (printed["command"], printed["status"], printed["folder"]) == ("run", 0, "results/r")
    Draft202012Validator(json.loads((FOLDER / "output-1.schema.json").read_text())).validate(printed)
    assert "block 2 of 2" in done.stderr
    with (tmp_path / "results" / "r" / "speedups.csv").open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["stack"] == "mine")
    assert (row["baseline_stack"], float(row["max_abs_logit_diff"])) == ("oracle", 0)


def test_the_citation_and_the_changelog_have_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert version in (ROOT / "CHANGELOG.md").read_text()
