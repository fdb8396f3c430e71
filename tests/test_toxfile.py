"""The contract of `tox -e ...`: the last selected stack environment measures all of them, once."""

import configparser
import os
import subprocess
import sys
from fnmatch import fnmatch

import pytest

from conftest import ROOT


def commands(*arguments: str) -> dict[str, str]:
    """Return the commands of each environment that `tox` with these arguments would run."""
    return configured("commands", *arguments)


def configured(key: str, *arguments: str) -> dict[str, str]:
    """Return a setting of each environment that `tox` with these arguments would use."""
    keep = {name: value for name, value in os.environ.items() if not name.startswith("TOX")}
    call = [sys.executable, "-m", "tox", "config", "-k", key, "--colored", "no", *arguments]
    done = subprocess.run(call, cwd=ROOT, env=keep, capture_output=True, text=True, check=True)
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(done.stdout)
    return {name.removeprefix("testenv:"): " ".join(parser[name][key].split()) for name in parser.sections()}


@pytest.mark.parametrize(
    ("selection", "last"),
    [("ipex,vanilla", "vanilla"), ("vanilla,ipex", "ipex"), ("vanilla", "vanilla"), ("ipex", "ipex")],
)
def test_the_last_of_the_selected_environments_measures_all_of_them(selection, last) -> None:
    found = commands("-e", selection)
    assert found.pop(last) == f"python -m bench run --environments {selection}"
    assert set(found.values()) <= {""}


def test_without_arguments_every_stack_is_measured() -> None:
    found = commands()
    assert found.pop("openvino") == "python -m bench run --environments vanilla,ipex,itex,openvino"
    assert found == {"vanilla": "", "ipex": "", "itex": ""}


def test_arguments_pass_through() -> None:
    found = commands("-e", "ipex,vanilla", "--", "--preset", "smoke", "--name", "a b")
    assert found["vanilla"] == "python -m bench run --environments ipex,vanilla --preset smoke --name 'a b'"


def test_with_the_tests_every_stack_environment_runs_its_contract_tests_instead() -> None:
    found = commands("-m", "tests")
    for name in ("vanilla", "ipex", "itex", "openvino", "onnxruntime", "latest"):
        assert found[name] == "python -m pytest -n 2 --dist loadgroup tests/contract tests/benchmarks"
    assert "mypy" in found["tests"]
    assert found["end-to-end"].endswith(" tests/end_to_end")


def test_the_runs_over_all_environments_wait_for_each_of_them() -> None:
    waits = configured("depends", "-m", "tests")["end-to-end"].split()
    assert {name.rstrip(",") for name in waits} == set(commands("-m", "tests")) - {"tests", "end-to-end", "tox"}


def test_variables_for_the_harness_the_network_and_the_compiler_are_passed_on() -> None:
    """Patterns match upper and lower case alike."""
    patterns = configured("pass_env", "-e", "vanilla")["vanilla"].split()
    for name in (
        "BENCH_BACKENDS", "BENCH_STACK", "FASHION_MNIST_DIR", "UV_TORCH_BACKEND", "XDG_CACHE_HOME", "TMPDIR", "CXX",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE", "CI", "NO_COLOR", "FORCE_COLOR",
    ):  # fmt: skip
        assert any(fnmatch(name.lower(), pattern.lower()) for pattern in patterns), name
