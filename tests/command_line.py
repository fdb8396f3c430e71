"""Run the command line in processes of their own.

Most of a short call would be imports. So a server imports what the command line needs, once, and forks for each call.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

TOYS = Path(__file__).parent / "toys"
# Only a call that hangs takes so long, whatever else the machine does.
HANG_S = 1800
# The arms of the toys predict them in NumPy.
FEW_IMAGES = 500
# Commands that predict all images, or measure.
SHORTENED = {"run", "train", "tune", "evaluate"}
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


def run_bench(cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Do what `python -m bench` does, with the toy stacks installed; return its status and output.

    There are fewer synthetic images to predict and to train on, and a run on them times smaller limits of the machine.
    Any other run of preset smoke has one block. None of this applies where a fleet does the work.
    """
    environment = environment_of(cwd, arguments) | {"PYTHONWARNINGS": "error"} | variables
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = SERVER.Process(target=call, args=(cwd, arguments, environment, out, err))
        process.start()
        process.join(HANG_S)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"bench {' '.join(arguments)}: {out.read_text()}{err.read_text()}")
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())


def environment_of(cwd: Path, arguments: Sequence[str]) -> dict[str, str]:
    """Return the variables of a call of the command line in a test's folder, with the toy stacks installed.

    Runs on synthetic data share a cache of the tests, so that they neither use nor fill the user's.
    """
    # Each process of xdist has a folder of its own, below that of all of them.
    shared = cwd.parents["PYTEST_XDIST_WORKER" in os.environ]
    cache = {"XDG_CACHE_HOME": str(shared / "cache")} if "synthetic" in arguments else {}
    # Runs of other processes of xdist are no disturbance that a test is about.
    lock = {"BENCH_LOCK": str(cwd.with_name(f"{cwd.name}.lock"))}
    return os.environ | {"BENCH_BACKENDS": str(TOYS)} | lock | cache


def shortened(cwd: Path, *arguments: str) -> dict[str, Any]:
    """Return what subprocess.Popen needs to do as `python -m bench` does, with less of all that only takes time."""
    command = [sys.executable, "-m", "tests.shortened", *arguments]
    variables = {"PYTHONPATH": str(TOYS.parents[1]), "PYTHONWARNINGS": "error"}
    return {"args": command, "cwd": cwd, "env": environment_of(cwd, command) | variables}


def call(cwd: Path, arguments: Sequence[str], environment: dict[str, str], out: Path, err: Path) -> None:
    """Do what `python -m bench` does, in a process that was forked for it."""
    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # The interpreter reads PYTHONWARNINGS only when it starts.
    warnings.simplefilter("error")
    # The nodes of a fleet have all the images, and so their driver must.
    if not SHORTENED.isdisjoint(arguments[:1]) and "--fleet" not in arguments:
        # What it imports reads the variables.
        from tests.shortened import shorten_preparations, shorten_real_run

        if "synthetic" in arguments:
            shorten_preparations(FEW_IMAGES)
        elif arguments[0] == "run":
            shorten_real_run()
    sys.argv[1:] = arguments
    runpy.run_module("bench", run_name="__main__", alter_sys=True)
