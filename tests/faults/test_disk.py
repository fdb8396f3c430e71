"""Disks that are full or can't be written: one line says which folder and what to do; what was measured is kept."""

from __future__ import annotations

import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from bench.journal import JOURNAL, broken_link, read_journal
from conftest import SMALL
from tests.command_line import HANG_S, environment_of
from tests.faults.conftest import left_in, run_command

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module", autouse=True)
def _mounts() -> None:
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount a small file system")


def measure_on(folder: Path, mounts: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Measure where some folders are small file systems of their own; `kept` has what was in the results."""
    (folder / "toys.toml").write_text(SMALL)
    for name in ("scratch", "results", "cache", *mounts):
        (folder / name).mkdir(exist_ok=True)
    command = run_command(*options)
    lines = [f"mount -t tmpfs -o {shlex.quote(option)} none {shlex.quote(name)}" for name, option in mounts.items()]
    lines += [f"{shlex.join(command)}", "status=$?", "cp -a results kept", "ls -A scratch > left", "exit $status"]
    environment = environment_of(folder, ()) | {
        "TMPDIR": str(folder / "scratch"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    return subprocess.run(
        [*NAMESPACE, "sh", "-c", "\n".join(lines)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip


def require_clean(folder: Path) -> None:
    assert (folder / "left").read_text() == ""
    assert left_in(folder / "scratch") == []
    assert not [path for path in (folder / "kept").rglob("*") if "partial" in path.name]
    assert not (folder / "kept" / "latest").is_symlink()


@pytest.mark.parametrize("size", ["4k", "60k"])
def test_a_full_results_folder_is_one_line_and_what_was_measured_is_kept(tmp_path, size) -> None:
    done = measure_on(tmp_path, {"results": f"size={size}"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left on device; free space there" in done.stderr
    assert "results/r/" in done.stderr
    require_clean(tmp_path)
    run = tmp_path / "kept" / "r"
    if (run / JOURNAL).exists():
        assert read_journal(run)
        assert broken_link(run) is None
        assert "`python -m bench report results/r` writes its report" in done.stderr


def test_a_full_folder_for_temporary_files_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"scratch": "size=4k"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path}/scratch/" in done.stderr
    assert "free space there" in done.stderr
    require_clean(tmp_path)


def test_a_full_cache_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"cache": "size=8k"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path}/cache/" in done.stderr
    assert "No space left on device; free space there" in done.stderr
    require_clean(tmp_path)


def test_a_read_only_file_system_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"results": "ro"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "results/r: can't be made (Read-only file system); mount it with write access" in done.stderr
    require_clean(tmp_path)
