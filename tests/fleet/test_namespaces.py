"""Two nodes with a core each, in network namespaces: OpenSSH's own server and client, and a partition."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.commands.fleet import order_for
from bench.fleet.driver import Node
from bench.fleet.state import read_events, read_fleet
from conftest import SMALL
from tests.command_line import environment_of

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or ""
NODES = ("one", "two")


def sh(*command) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)


@pytest.fixture
def nodes(tmp_path):
    """Start a server in a namespace for each node; return the configuration of the client."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make network namespaces")
    if not SSHD or not shutil.which("ip"):
        pytest.skip("needs sshd and ip (apt-get install openssh-server iproute2)")
    folder, tag = tmp_path / "ssh", f"{os.getpid() % 10_000}"
    folder.mkdir()
    if subprocess.run(["ip", "netns", "add", f"bench{tag}"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces can't be made here")
    sh("ip", "netns", "del", f"bench{tag}")
    sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    Path("/run/sshd").mkdir(exist_ok=True)
    cores, servers, text = sorted(os.sched_getaffinity(0)), [], ""
    for number, name in enumerate(NODES):
        space, link, host = f"bench{tag}{number}", f"bv{tag}{number}", f"10.213.{number}.2"
        sh("ip", "netns", "add", space)
        sh("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space)
        sh("ip", "addr", "add", f"10.213.{number}.1/30", "dev", link)
        sh("ip", "link", "set", link, "up")
        inside = ("ip", "netns", "exec", space)
        sh(*inside, "ip", "addr", "add", f"{host}/30", "dev", "eth0")
        sh(*inside, "ip", "link", "set", "eth0", "up")
        sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / f"host{number}")
        backends = environment_of(tmp_path, ())["BENCH_BACKENDS"]
        options = {
            "ListenAddress": f"{host}:22",
            "HostKey": folder / f"host{number}",
            "AuthorizedKeysFile": folder / "key.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "PermitRootLogin": "prohibit-password",
            "UsePAM": "no",
            "SetEnv": f"BENCH_LOCK={folder}/lock{number} BENCH_BACKENDS={backends}",
        }
        server = [*inside, "taskset", "-c", str(cores[number % len(cores)]), SSHD, "-D", "-f", "/dev/null"]
        server += [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        servers.append(subprocess.Popen(server, stderr=subprocess.DEVNULL))
        key = (folder / f"host{number}.pub").read_text().split()
        with (folder / "known").open("a") as known:
            known.write(f"{host} {key[0]} {key[1]}\n")
        text += f"Host {name}\n HostName {host}\n"
    text += f"Host *\n User root\n IdentityFile {folder}/key\n IdentitiesOnly yes\n UserKnownHostsFile {folder}/known\n"
    (folder / "config").write_text(text)
    (tmp_path / "hosts").write_text("one\ntwo\n")
    for name in NODES:
        for _ in range(300):
            connect = ["ssh", "-F", folder / "config", "-o", "BatchMode=yes", name, "true"]
            if not subprocess.run(connect, capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)
    yield {name: f"bv{tag}{number}" for number, name in enumerate(NODES)}
    for number, server in enumerate(servers):
        server.terminate()
        server.wait()
        sh("ip", "netns", "del", f"bench{tag}{number}")


@pytest.mark.fleet
def test_nodes_behind_real_servers_are_measured_and_a_partition_is_survived(nodes, bench, tmp_path) -> None:
    """A node behind a broken network is lost. Its run goes on, and so does the fleet once the network is back."""
    (tmp_path / "mine.toml").write_text(SMALL)
    folder = tmp_path / "results" / "f"
    two = folder / "nodes" / "two" / "journal.jsonl"
    options = (
        "--driver", "ssh", "--hosts", "hosts", "--ssh-config", str(tmp_path / "ssh" / "config"), "--home",
        str(tmp_path / "home"), "--python", sys.executable, "--name", "f", "--suite", str(tmp_path / "mine.toml"),
        "--preset", "smoke", "--data", "synthetic", "--threads", "1",
    )  # fmt: skip
    first = []
    driving = threading.Thread(target=lambda: first.append(bench("fleet", "run", *options)))
    driving.start()
    for _ in range(4_000):
        if two.exists() and two.stat().st_size:
            break
        time.sleep(0.05)
    sh("ip", "link", "set", nodes["two"], "down")
    driving.join()
    assert first[0].returncode == 1, first[0].stdout + first[0].stderr
    events = read_events(folder)
    assert {name: event.status for name, event in events.items()} == {"one": "complete", "two": "lost"}
    assert events["two"].reason in ("no sign of life for 75 s", "Timeout, server 10.213.1.2 not responding.")
    assert "1 cores" in first[0].stdout
    sh("ip", "link", "set", nodes["two"], "up")
    second = bench("fleet", "run", "--resume", "f")
    assert (second.returncode, second.stderr) == (0, ""), second.stdout
    assert {name: (event.status, event.starts) for name, event in read_events(folder).items()} == {
        "one": ("complete", 1), "two": ("complete", 1),
    }  # fmt: skip
    for name in NODES:
        for file in ("run.json", "journal.jsonl"):
            run = order_for(read_fleet(folder), folder, Node(name, name)).name
            on_node = tmp_path / "home" / "results" / run / file
            assert (folder / "nodes" / name / file).read_bytes() == on_node.read_bytes()
        assert bench("verify", str(folder / "nodes" / name)).returncode == 0
    assert "one, two run on one machine: they count as one." in (folder / "report.md").read_text()
