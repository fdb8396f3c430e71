"""An obstacle to compiling is found before an arm fails from it, with its remedy."""

import os
import tempfile
from pathlib import Path

import pytest

from bench.machine import compiler, diagnosis


@pytest.fixture(autouse=True)
def untried(monkeypatch, tmp_path):
    """Let the temporary folder be that of the test, and forget what was found before and after it."""
    compiler._trial.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield
    compiler._trial.cache_clear()


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "cxx"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_compiler_of_this_machine_works(tmp_path) -> None:
    assert compiler.compile_obstacle() is None
    assert list(tmp_path.iterdir()) == []
    assert not diagnosis.compiling().advice


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (
            "echo 'a.cpp:1: fatal error: Python.h: No such file' >&2; exit 1",
            "install them, for instance python3.11-dev",
        ),
        ("echo 'error: omp.h: No such file' >&2; exit 1", "does not work (error: omp.h: No such file): install g++"),
        ("exit 3", "does not work (it failed): install g++"),
        ("exit 0", "does not work (it failed): install g++"),
    ],
)
def test_a_compiler_that_fails_is_named_with_the_remedy(tmp_path, monkeypatch, script, reason) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, script))
    assert reason in compiler.compile_obstacle()
    assert diagnosis.compiling().advice == compiler.compile_obstacle()


def test_a_machine_without_a_compiler_is_told_how_to_get_one(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiler.compile_obstacle() == (
        "there is no C++ compiler (no-such-compiler): install g++, or name another one with CXX"
    )


def test_a_folder_without_execution_is_found_by_mapping_what_was_compiled(tmp_path, monkeypatch) -> None:
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(compiler.mmap, "mmap", refuse)
    assert compiler.compile_obstacle() == (f"programs can't run from {tmp_path} (noexec): set TMPDIR to another folder")


@pytest.mark.parametrize("name", ["my files", "it's", 'a"b', "a\\b", "tab\there"])
def test_a_path_that_compilers_can_not_handle_is_named(tmp_path, monkeypatch, name) -> None:
    odd = tmp_path / name
    odd.mkdir()
    assert f"blank or quote in the path {odd}" in compiler.compile_obstacle(odd)
    assert "tox --workdir FOLDER" in compiler.compile_obstacle(odd)
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert compiler.compile_obstacle().endswith(f"the temporary folder {odd}: set TMPDIR to another folder")


def test_other_characters_are_no_obstacle(tmp_path, monkeypatch) -> None:
    odd = tmp_path / "ümläut+b=c,d;(e)&$f"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))
    assert compiler.compile_obstacle(odd) is None


def test_a_compiler_that_hangs_is_given_up(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(compiler, "COMPILE_TIMEOUT_S", 0.01)
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "exec sleep 60"))
    assert "did not end within 0.01 s; BENCH_TIMEOUT_FACTOR=4" in compiler.compile_obstacle()
    assert os.environ["CXX"] in compiler.compile_obstacle()
