"""The installer makes environments offline, or says in one line why not and leaves nothing."""

import os
import re
import shutil
import subprocess

import pytest

from conftest import ROOT
from tests.bundle import tiny


@pytest.fixture
def node(made, tmp_path):
    """Return a machine with a bundle, a place to install in, and commands that can be replaced."""
    return Node(made.folder, tmp_path)


class Node:
    def __init__(self, bundle, folder) -> None:
        self.bundle, self.folder, self.target = shutil.copytree(bundle, folder / "b"), folder, folder / "node"
        # It needs no room on the disk.
        tiny.seal(self.bundle, installed_kb="0")
        (folder / "bin").mkdir()
        (folder / "tmp").mkdir()
        self.command("python3.11", "echo 3.11")

    def command(self, name, script) -> None:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def install(self, *arguments, **variables) -> subprocess.CompletedProcess[str]:
        own = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
        }
        call = ["sh", str(self.bundle / "install.sh"), *(arguments or ["node"])]
        return subprocess.run(call, cwd=self.folder, env=own | variables, capture_output=True, text=True, check=False)

    def refuses(self, *arguments, **variables) -> str:
        """Return the one line of a refusal, after which nothing is left."""
        done = self.install(*arguments, **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        assert not self.target.exists()
        (line,) = done.stderr.splitlines()
        return line


def test_an_installation_makes_each_environment_without_a_network(node) -> None:
    done = node.install(UV_INDEX="https://user's", UV_NO_CACHE="1")
    assert (done.returncode, done.stderr) == (0, "")
    calls = (node.folder / "calls").read_text().splitlines()
    links = f"offline=11 links={node.bundle}/wheels index=none data=none"
    assert calls[-2:] == [f"tox -e {name} --notest {links}" for name in ("vanilla", "ipex")]
    assert "--no-deps --require-hashes --requirements" in calls[1]
    assert f"ready. Measure: cd {node.target} && ./tox" in done.stdout
    assert not list((node.folder / "tmp").iterdir())


def test_tox_measures_the_environments_of_the_bundle_with_its_data(node) -> None:
    (node.bundle / "data" / "fashion-mnist").mkdir()
    (node.bundle / "data" / "fashion-mnist" / "images.gz").touch()
    tiny.seal(node.bundle)
    assert node.install().returncode == 0
    own = {"PATH": "/usr/bin:/bin", "HOME": str(node.folder)}
    subprocess.run([node.target / "tox", "--", "--preset", "smoke"], env=own, check=True)
    data = node.target / ".offline" / "data" / "fashion-mnist"
    expected = f"tox -- --preset smoke offline=11 links={node.bundle}/wheels index=none data={data}"
    assert (node.folder / "calls").read_text().splitlines()[-1] == expected
    shown = subprocess.run(
        ["sh", "-c", f'. {node.target}/activate; echo "$TOXENV $UV_CONSTRAINT $TOX_OVERRIDE"'],
        env=own | {"TOX_OVERRIDE": "mine"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    pins = node.target / ".offline" / "requirements"
    assert (
        shown.stdout == f"vanilla,ipex {pins}/tools.txt mine;testenv.set_env+=UV_CONSTRAINT={pins}/{{env_name}}.txt\n"
    )


def test_a_python_of_the_bundle_is_installed_and_comes_first(made_with_python, tmp_path) -> None:
    node = Node(made_with_python.folder, tmp_path)
    node.command("python3.11", "exit 127")
    done = node.install(TINY_PYTHON="yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        f"uv python install --no-bin cpython-3.11.9-linux {node.bundle}/python/downloads.json\n"
        in (tmp_path / "calls").read_text()
    )
    assert f"{node.target}/.offline/python/cpython-3.11.9-linux/bin:" in (node.target / "activate").read_text()


def test_the_documented_commands_install_and_measure(node) -> None:
    node.bundle.rename(node.folder / "bundle")
    text = (ROOT / "docs" / "offline.md").read_text()
    (commands,) = (
        block for block in re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) if "./tox" in block
    )
    own = {"PATH": f"{node.folder / 'bin'}:/usr/bin:/bin", "HOME": str(node.folder)}
    subprocess.run(["sh", "-e", "-c", commands], cwd=node.folder, env=own, check=True)
    assert (node.folder / "calls").read_text().splitlines()[-1].startswith("tox  offline=11")


@pytest.mark.parametrize("damage", ["changed", "missing", "other settings", "cut list"])
def test_a_damaged_bundle_is_refused(node, damage) -> None:
    wheel = node.bundle / "wheels" / "torch-1.0-py3-none-any.whl"
    match damage:
        case "changed":
            wheel.write_bytes(wheel.read_bytes()[:-1] + b"x")
        case "missing":
            wheel.unlink()
        case "cut list":
            sums = node.bundle / "SHA256SUMS"
            sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))
            assert "SHA256SUMS: damaged (not" in node.refuses()
            return
        case _:
            wheel = node.bundle / "settings"
            wheel.write_text(wheel.read_text() + "exit 9\n")
    line = node.refuses()
    assert line.startswith(f"install.sh: {wheel}: damaged, missing or not readable")
    assert line.endswith("copy the bundle again")


@pytest.mark.parametrize(
    ("command", "script", "words"),
    [
        ("uname", "echo aarch64", "this machine is aarch64, and the bundle is for x86_64; make a bundle on a machine"),
        ("getconf", "echo glibc 2.17", "this machine has glibc 2.17, and the wheels need glibc 2.28 or newer; install"),
        ("getconf", "exit 1", "this machine has no glibc, and the wheels need glibc 2.28"),
        ("python3.11", "echo 3.10", "Python 3.11 is missing, and the bundle holds none; install python3.11, or make"),
        ("python3.11", "exit 127", "Python 3.11 is missing"),
        ("df", "printf 'x\\nx 9 9 -5000 9'", "has -5 MB free, and the installation needs 0 MB; free space there"),
    ],
)
def test_a_machine_that_does_not_fit_is_refused(node, command, script, words) -> None:
    node.command(command, script)
    assert words in node.refuses()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("error: No space left on device (os error 28)", "the disk of {parent} is full; free 0 MB there, or name"),
        ("error: hash mismatch", "making the environment vanilla failed: error: hash mismatch"),
    ],
)
def test_nothing_stays_of_an_installation_that_fails_halfway(node, message, words) -> None:
    line = node.refuses(TINY_FAILURE=message)
    assert words.format(parent=node.folder) in line


def test_a_disk_that_fills_up_meanwhile_is_told_in_one_line(node) -> None:
    script = 'mount -t tmpfs -o size=300k tmpfs "$0" && sh "$1" "$0/node"; echo status $?; ls -A "$0"'
    small_disk = node.folder / "disk"
    small_disk.mkdir()
    (node.bundle / "project" / "large").write_bytes(bytes(1_000_000))
    tiny.seal(node.bundle)
    call = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        small_disk,
        node.bundle / "install.sh",
    ]
    environment = {"PATH": f"{node.folder / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(node.folder)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    assert done.stdout.endswith("status 2\n"), done.stdout + done.stderr
    assert done.stderr.splitlines() == [
        f"install.sh: copying the project: the disk of {small_disk} is full; free 0 MB there, or name another folder"
    ]


def test_what_an_interrupted_installation_left_is_replaced(node) -> None:
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout
    node.target.mkdir()
    (node.target / ".installing").write_text(ended)
    (node.target / "half").touch()
    done = node.install()
    assert (done.returncode, done.stderr) == (0, "")
    assert "removing what an interrupted installation left" in done.stdout
    assert not (node.target / "half").exists()


def test_an_installation_that_is_under_way_is_left_alone(node) -> None:
    node.target.mkdir()
    (node.target / ".installing").write_text(str(os.getpid()))
    done = node.install()
    assert done.returncode == 2
    assert "another installation is under way there; wait for its end" in done.stderr
    assert node.target.exists()


@pytest.mark.parametrize("arguments", [["a", "b"], ["--help"], ["no/such/node"], ["a b"], ["x;y"], ["."]])
def test_a_wrong_place_is_refused(node, arguments) -> None:
    before = sorted(node.folder.iterdir())
    node.refuses(*arguments)
    assert sorted(node.folder.iterdir()) == before


def test_a_folder_that_exists_is_left_alone(node) -> None:
    node.target.mkdir()
    done = node.install()
    assert (done.returncode, done.stderr) == (
        2,
        f"install.sh: {node.target}: exists already; remove it, or name another folder\n",
    )
