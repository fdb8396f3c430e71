"""Find out whether code can be compiled and loaded here, as torch.compile does when a model is first called."""

from __future__ import annotations

import mmap
import os
import re
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

from bench.processes.scratch import scratch_folder
from models.timeouts import LONGER, timeout_factor

# PyTorch hands paths to the compiler without quotes.
UNQUOTABLE = re.compile(r"[\s'\"\\]")
COMPILE_TIMEOUT_S = 60
SOURCE = b"#include <Python.h>\n#include <omp.h>\n#include <cmath>\nint probe() { return omp_get_max_threads(); }\n"
OTHER_FOLDER = "set TMPDIR to another folder"


def compiler() -> str:
    return os.environ.get("CXX") or "g++"


def temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def compile_obstacle(environment: Path | None = None) -> str | None:
    """Return why torch.compile can't work in the temporary folder, or in an environment, with the remedy; or None."""
    folder = temporary_folder()
    if UNQUOTABLE.search(str(folder)):
        return f"compilers can't handle the blank or quote in the temporary folder {folder}: {OTHER_FOLDER}"
    if environment and UNQUOTABLE.search(str(environment)):
        return (
            f"compilers can't handle the blank or quote in the path {environment}: make the environments in another "
            "folder: tox --workdir FOLDER"
        )
    return _trial(compiler(), folder)


@cache
def _trial(command: str, folder: Path) -> str | None:
    """Return why a small library can't be compiled in a folder or mapped for execution, or None."""
    try:
        with scratch_folder(folder) as scratch:
            library = scratch / "probe.so"
            done = subprocess.run(
                [command, "-shared", "-fPIC", "-fopenmp", f"-I{sysconfig.get_path('include')}", "-x", "c++", "-",
                 "-o", library],
                input=SOURCE, capture_output=True, check=False, cwd=scratch,
                timeout=COMPILE_TIMEOUT_S * timeout_factor(),
            )  # fmt: skip
            if done.returncode or not library.exists():
                return _reason(command, done.stderr.decode(errors="replace"))
            return None if _can_be_loaded(library) else f"programs can't run from {folder} (noexec): {OTHER_FOLDER}"
    except FileNotFoundError:
        return f"there is no C++ compiler ({command}): install g++, or name another one with CXX"
    except subprocess.TimeoutExpired as error:
        return f"the C++ compiler {command} did not end within {error.timeout:g} s; {LONGER}"
    except OSError as error:
        return f"the C++ compiler {command} can't be tried in {folder} ({error})"


def _reason(command: str, output: str) -> str:
    if "Python.h" in output:
        return "Python's C headers are missing (Python.h): install them, for instance python3.11-dev"
    error = next((line for line in output.splitlines() if "error" in line), "it failed").strip()
    return f"the C++ compiler {command} does not work ({error[:200]}): install g++, or name another one with CXX"


def _can_be_loaded(library: Path) -> bool:
    with library.open("rb") as file:
        try:
            mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()
        except OSError:
            return False
    return True
