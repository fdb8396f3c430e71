"""A bundle of a real environment installs and measures where there is no network, for another user."""

import csv
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest

from bench.checkout import commit
from tests.bundle import tiny
from tests.command_line import run_bench

NOBODY = 65534
# Interfaces are what stands before a colon here.
INTERFACES = Path("/proc/net/dev")


@pytest.fixture
def folder():
    """Return a folder that every user may read, which the folders of pytest are not."""
    with tempfile.TemporaryDirectory(prefix="bench-offline-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def alone(folder):
    """Return a function that runs a command without a network and, if root starts it, as another user."""
    isolation = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if os.geteuid() == 0:
        isolation += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    home = folder / "home"
    home.mkdir()
    if os.geteuid() == 0:
        os.chown(home, NOBODY, NOBODY)
    environment = {
        "PATH": f"/usr/local/bin:/usr/bin:/bin:{os.environ['PATH']}",
        "HOME": str(home),
        "BENCH_LOCK": str(home / "lock"),
    }

    def alone(*command: str) -> subprocess.CompletedProcess[str]:
        call = [*isolation, *command]
        return subprocess.run(call, cwd=home, env=environment, capture_output=True, text=True, check=False)

    for command in (["cat", str(INTERFACES)], ["python3.11", "-c", ""]):
        if (done := alone(*command)).returncode != 0:
            pytest.skip(f"can't be tried here: {' '.join(command)} alone: {done.stderr.strip()}")
    return alone


def test_a_bundle_measures_without_a_network_as_another_user(folder, alone) -> None:
    done = run_bench(folder, "bundle", "b", "--environments", "onnxruntime")
    assert done.returncode == 0, done.stdout + done.stderr
    interfaces = [line.split(":")[0].strip() for line in alone("cat", str(INTERFACES)).stdout.splitlines()[2:]]
    assert interfaces == ["lo"]

    # A wheel that somebody replaced, with sums that agree, is found by the pins.
    shutil.copytree(folder / "b", folder / "replaced", copy_function=os.link)
    wheel = next((folder / "replaced" / "wheels").glob("iniconfig-*"))
    original = wheel.read_bytes()
    wheel.unlink()
    wheel.write_bytes(original)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.comment = b"replaced"
    tiny.seal(folder / "replaced")
    done = alone("sh", str(folder / "replaced" / "install.sh"), "node")
    assert done.returncode == 2
    assert "Hash mismatch for `iniconfig" in done.stderr
    assert not (folder / "home" / "node").exists()

    done = alone("sh", str(folder / "b" / "install.sh"), "node")
    assert (done.returncode, done.stderr) == (0, "")
    node = folder / "home" / "node"
    options = ["--preset", "smoke", "--model", "cnn-small", "--batch-size", "64", "--precision", "fp32", "--name", "r"]
    done = alone(str(node / "tox"), "--", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    with (node / "results" / "r" / "arms.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["stack"], row["variant"]) == ("onnxruntime", "session")
    described = json.loads((node / "results" / "r" / "run.json").read_text())
    has_data = (folder / "b" / "data" / "fashion-mnist").exists()
    assert described["data"]["name"] == ("fashion-mnist" if has_data else "synthetic")
    assert described["git_commit"] == commit()
    assert (node / "results" / "r").stat().st_uid == (NOBODY if os.geteuid() == 0 else os.geteuid())
