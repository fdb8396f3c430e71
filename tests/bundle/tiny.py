"""A project, an index and tools that are as small as possible."""

import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

TOX_INI = """\
[tox]
requires =
    tox
    tox-uv
env_list = vanilla, ipex
[testenv]
dependency_groups = test
set_env =
    OTHER = 1
[testenv:vanilla]
extras = vanilla
[testenv:ipex]
extras = ipex
set_env =
    {[testenv]set_env}
    UV_OVERRIDE = {tox_root}/overrides.txt
[testenv:tests]
extras = tests
"""
PYPROJECT = """\
[build-system]
requires = ["hatchling"]
[project]
name = "tiny"
version = "1"
requires-python = ">=3.11"
dependencies = ["everywhere"]
[project.optional-dependencies]
vanilla = ["torch==1.0"]
ipex = ["torch==1.0", "stale"]
[dependency-groups]
test = ["checker"]
"""
# Each by name and version, with its requirements.
INDEX = {
    ("everywhere", "2"): (), ("torch", "1.0"): ("nvidia-big",), ("nvidia-big", "1"): (), ("checker", "1"): ("shared",),
    ("stale", "1"): ("shared<2",), ("shared", "1"): (), ("shared", "2"): (), ("tox", "4"): ("shared",),
    ("tox-uv", "1"): ("tox", "uv"), ("hatchling", "1"): (), ("editables", "1"): (),
}  # fmt: skip
# Notes its calls, and makes what the real ones make: a Python, and an environment with a tox.
UV = r"""#!/bin/sh
printf 'uv %s %s\n' "$*" "${UV_PYTHON_DOWNLOADS_JSON_URL-}" >>"$HOME/calls"
case "$1" in
    python)
        [ -n "${TINY_PYTHON-}" ] || { echo "error: no network" >&2; exit 1; }
        for argument; do case $argument in --install-dir=*) UV_PYTHON_INSTALL_DIR=${argument#*=} ;; esac; done
        mkdir -p "$UV_PYTHON_CACHE_DIR" "$UV_PYTHON_INSTALL_DIR/cpython-3.11.9-linux/bin"
        echo archive >"$UV_PYTHON_CACHE_DIR/cpython.tar.gz"
        ;;
    venv)
        mkdir -p "$4/bin"
        cat >"$4/bin/tox" <<'END'
#!/bin/sh
printf 'tox %s offline=%s links=%s index=%s data=%s\n' \
    "$*" "$UV_OFFLINE$UV_NO_INDEX" "$UV_FIND_LINKS" "${UV_INDEX-none}" "${FASHION_MNIST_DIR-none}" >>"$HOME/calls"
[ -z "${TINY_FAILURE-}" ] || { echo "$TINY_FAILURE" >&2; exit 1; }
END
        chmod +x "$4/bin/tox"
        ;;
esac
"""


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = (), **files: str) -> Path:
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            f"{stem}.dist-info/METADATA", metadata + "".join(f"Requires-Dist: {one}\n" for one in requires)
        )
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
        for file, text in files.items():
            archive.writestr(f"{stem}.data/scripts/{file}", text)
    return path


def write_index(folder: Path) -> Path:
    folder.mkdir()
    for (name, version), requires in INDEX.items():
        write_wheel(folder, name, version, requires)
    write_wheel(folder, "uv", "9", uv=UV)
    return folder


def write_project(folder: Path) -> Path:
    """Write a checkout under version control, with a file that git does not know."""
    (folder / "bench").mkdir(parents=True)
    (folder / "tox.ini").write_text(TOX_INI)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "overrides.txt").write_text("shared==2\n")
    (folder / "bench" / "known.py").write_text("")
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (folder / "bench" / "unknown.py").write_text("")
    return folder


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(bundle: Path, **settings: str) -> None:
    """Change settings of a bundle, and write its number of files and their sums again: a change that nobody finds."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    assigned = {"files": str(len(files)), **settings}
    lines = (bundle / "settings").read_text().splitlines()
    kept = [line for line in lines if line.partition("=")[0] not in assigned]
    text = "\n".join([*kept, *(f"{name}='{value}'" for name, value in assigned.items()), ""])
    # Another bundle may share the file.
    (bundle / "settings").unlink()
    (bundle / "settings").write_text(text)
    sums = (f"{digest(path)}  {path.relative_to(bundle)}\n" for path in files)
    (bundle / "SHA256SUMS").unlink()
    (bundle / "SHA256SUMS").write_text("".join(sums))


def offline(index: Path) -> dict[str, str]:
    """Return the variables with which uv and pip see only this index."""
    return {"UV_FIND_LINKS": str(index), "UV_NO_INDEX": "1", "UV_OFFLINE": "1", "PIP_NO_INDEX": "1"} | {
        name: "" for name in os.environ if name.startswith("UV_TORCH")
    }
