"""Disks that are full or can't be written: one line says which folder and what to do; what was measured is kept."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench.journal import JOURNAL, broken_link, read_journal
from conftest import SMALL
from tests.analysis.recorded_run import inference_run
from tests.command_line import HANG_S, environment_of
from tests.faults.conftest import folders, left_in, run_command

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
# Root may write everywhere, unless it gives up that right.
AS_OWNER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture(scope="module")
def _mounts() -> None:
    done = subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this user may not mount a small file system")


def measure_on(folder: Path, mounts: dict[str, str], meanwhile: str = "") -> subprocess.CompletedProcess[str]:
    """Measure where some folders are small file systems of their own; `kept` has what was in the results.

    `meanwhile` is a script beside the run, whose process is `$run`.
    """
    (folder / "toys.toml").write_text(SMALL)
    for name in ("scratch", "results", "cache", *mounts):
        (folder / name).mkdir(exist_ok=True)
    lines = [f"mount -t tmpfs -o {shlex.quote(option)} none {shlex.quote(name)}" for name, option in mounts.items()]
    lines += [f"{shlex.join(run_command())} & run=$!", meanwhile, "wait $run", "status=$?", "rm -f scratch/filler"]
    lines += ["cp -a results kept", "ls -A scratch > left", "exit $status"]
    environment = environment_of(folder, ()) | folders(folder) | {"XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        [*NAMESPACE, "sh", "-c", "\n".join(lines)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=HANG_S,
    )  # fmt: skip


def require_clean(folder: Path) -> None:
    """Make sure that nothing is left but what was measured."""
    assert (folder / "left").read_text() == ""
    assert left_in(folder / "scratch") == []
    assert not [path for path in (folder / "kept").rglob("*") if "partial" in path.name]
    assert not (folder / "kept" / "latest").is_symlink()


@pytest.mark.usefixtures("_mounts")
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


@pytest.mark.usefixtures("_mounts")
def test_a_full_folder_for_temporary_files_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"scratch": "size=4k"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path}/scratch/" in done.stderr
    assert "free space there" in done.stderr
    require_clean(tmp_path)


@pytest.mark.usefixtures("_mounts")
def test_a_full_cache_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"cache": "size=8k"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert f"{tmp_path}/cache/" in done.stderr
    assert "No space left on device; free space there" in done.stderr
    require_clean(tmp_path)


@pytest.mark.usefixtures("_mounts")
def test_a_read_only_file_system_is_named(tmp_path) -> None:
    done = measure_on(tmp_path, {"results": "ro"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "results/r: can't be made (Read-only file system); mount it with write access" in done.stderr
    require_clean(tmp_path)


@pytest.mark.usefixtures("_mounts")
def test_temporary_files_without_space_in_the_middle_of_a_run_fail_arms_that_say_so(tmp_path) -> None:
    """The second block's processes can't write their outputs; the first block is kept."""
    wait = f"until grep -qs slice results/r/{JOURNAL}; do kill -0 $run 2> /dev/null || break; sleep 0.02; done"
    # The second block must not start before the folder is full.
    fill = "kill -STOP $run; head -c 1G /dev/zero > scratch/filler 2> /dev/null; kill -CONT $run"
    done = measure_on(tmp_path, {"scratch": "size=16m"}, f"{wait}; {fill}")
    assert (done.returncode, done.stderr) == (1, "")
    assert (tmp_path / "left").read_text() == ""
    run = tmp_path / "kept" / "r"
    assert broken_link(run) is None
    with (run / "arms.csv").open() as stream:
        reasons = {row["reason"] for row in csv.DictReader(stream)}
    assert reasons
    for reason in reasons:
        assert f"{tmp_path}/scratch/" in reason
        assert "is full: free space there, or set TMPDIR to another folder" in reason


@pytest.mark.parametrize("command", ["run", "report"])
def test_a_folder_of_another_user_is_named(tmp_path, command) -> None:
    if AS_OWNER and not shutil.which(AS_OWNER[0]):
        pytest.skip("root can't give up its rights here")
    results, scratch = tmp_path / "results", tmp_path / "scratch"
    results.mkdir()
    scratch.mkdir()
    (tmp_path / "toys.toml").write_text(SMALL)
    report = [sys.executable, "-m", "bench", "report", "results/r"]
    if command == "report":
        inference_run(results / "r").write()
        (results / "r").chmod(0o555)
    results.chmod(0o555)
    before = sorted(results.rglob("*"))
    done = subprocess.run(
        [*AS_OWNER, *(report if command == "report" else run_command())],
        cwd=tmp_path, env=environment_of(tmp_path, ()) | folders(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("bench: results/r")
    assert "Permission denied" in done.stderr
    assert "make it accessible to you, or name a" in done.stderr
    assert sorted(results.rglob("*")) == before
    assert list(scratch.iterdir()) == []
    assert left_in(scratch) == []
