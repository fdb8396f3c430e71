"""The driver `slurm`, on a cluster of one node on this machine."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
from types import ModuleType

import pytest

from bench.commands.fleet import order_for
from bench.fleet.driver import Node, NodeError, NodeLostError, NodeOrder, NodeRefusedError
from bench.fleet.node import STARTED_FILE, control_folder, run_folder
from bench.fleet.slurm import SlurmDriver
from bench.fleet.state import read_events, read_fleet
from conftest import SMALL
from tests.command_line import environment_of

DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIGURATION = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.mark.skipif(importlib.util.find_spec("submitit") is not None, reason="submitit is installed")
def test_without_submitit_one_line_says_how_to_get_it(bench) -> None:
    done = bench("fleet", "run", "--driver", "slurm", "--home", "/h")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "needs submitit; install it: python -m pip install 'cnn-stack-bench[fleet-slurm]'" in done.stderr


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Return a driver whose commands write what the files named after them hold, and fail if there are none."""
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    for name in ("sinfo", "squeue", "sbatch", "scancel", "srun"):
        command = tmp_path / name
        command.write_text(f'#!/bin/sh\necho "$@" >> {command}.calls\nexec cat {command}.out\n')
        command.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return SlurmDriver(None, "/h", "python", 10, wait_s=0.0)


def test_only_the_default_partition_is_listed_unless_another_one_is_named(fake_slurm, tmp_path) -> None:
    (tmp_path / "sinfo.out").write_text("a|idle|2|main*\nb|idle|2|main*\nb|idle|2|gpu\nc|idle|2|gpu\n")
    assert [node.name for node in fake_slurm.nodes()] == ["a", "b"]
    (tmp_path / "sinfo.out").write_text("c|idle|2|gpu\n")
    assert [node.name for node in SlurmDriver("gpu", "/h", "python", 10, wait_s=0.0).nodes()] == ["c"]


def test_a_silent_controller_does_not_say_that_there_is_no_job(fake_slurm, tmp_path, monkeypatch) -> None:
    """No second job is submitted, no run is called lost or stopped, and once Slurm answers, the job is ended."""
    monkeypatch.setattr("bench.fleet.slurm.STOP_S", 0.0)
    monkeypatch.setattr("bench.fleet.slurm.LOOK_S", 0.0)
    monkeypatch.setattr("bench.fleet.slurm.ASK_S", 0.0)
    node, order = Node("a", "a"), NodeOrder("r", str(tmp_path), ())
    control = control_folder(order)
    control.mkdir(parents=True)
    (control / "job").write_text("17")
    for call in (fake_slurm.start, fake_slurm.stop):
        with pytest.raises(NodeError, match=r"squeue: .*squeue.out"):
            call(node, order)
    assert not (tmp_path / "sbatch.calls").exists()
    monkeypatch.setattr("bench.fleet.node.HEARTBEAT_S", -1.0)
    stream = fake_slurm.stream(node, order, 0)
    assert [next(stream) for _ in range(3)] == [b"Hwaiting"] * 3
    (tmp_path / "squeue.out").write_text("16\n17\n")
    (tmp_path / "scancel.out").write_text("")
    with pytest.raises(NodeRefusedError, match="its job 17 goes on, 0 s after it was asked to end"):
        fake_slurm.stop(node, order)
    assert (tmp_path / "scancel.calls").read_text() == "17\n"
    (tmp_path / "squeue.out").write_text("16\n")
    fake_slurm.stop(node, order)
    with pytest.raises(NodeLostError, match="Slurm lists its job no longer"):
        list(stream)


def free_ports(count) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Start Slurm and munge with all of their files in a folder of the test; return the name of the node."""
    if importlib.util.find_spec("submitit") is None:
        pytest.skip("needs submitit (extra fleet-slurm)")
    if missing := [name for name in DAEMONS if shutil.which(name) is None]:
        pytest.skip(f"needs {', '.join(missing)} (apt-get install slurmctld slurmd munge)")
    if os.geteuid() != 0:
        pytest.skip("needs root, to start Slurm's daemons")
    folder, host = tmp_path / "slurm", socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key, sock = folder / "munge.key", folder / "munge.sock"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    configuration = folder / "slurm.conf"
    configuration.write_text(CONFIGURATION.format(host=host, folder=folder, ports=free_ports(2), cores=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    monkeypatch.setenv("BENCH_BACKENDS", environment_of(tmp_path, ())["BENCH_BACKENDS"])
    options = {"socket": sock, "key-file": key, "pid-file": folder / "munged.pid"}
    options |= {"log-file": folder / "munged.log", "seed-file": folder / "munge.seed"}
    subprocess.run(["munged", "--force", *(f"--{name}={path}" for name, path in options.items())], check=True)
    for daemon in ("slurmctld", "slurmd"):
        subprocess.run([daemon, "-f", configuration], check=True)
    for _ in range(600):
        listed = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True, check=False)
        if listed.stdout.strip() == "idle":
            break
        time.sleep(0.1)
    yield host
    for daemon in reversed(DAEMONS):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / f"{daemon}.pid").read_text()), 15)


def run_fleet(bench, tmp_path, *options, name="f"):
    (tmp_path / "mine.toml").write_text(SMALL)
    return bench(
        "fleet", "run", "--driver", "slurm", "--home", str(tmp_path / "home"), "--python", sys.executable, "--name",
        name, "--suite", str(tmp_path / "mine.toml"), "--preset", "smoke", "--data", "synthetic", "--threads", "1",
        *options,
    )  # fmt: skip


@pytest.mark.fleet
def test_slurm_measures_exclusively_and_others_wait_or_are_refused(slurm, bench, tmp_path) -> None:
    blocker = ["sbatch", "--exclusive", "--parsable", "--output", "/dev/null", "--wrap", "sleep 600"]
    blocking = subprocess.run(blocker, capture_output=True, text=True, check=True).stdout.strip()
    driver = SlurmDriver(None, str(tmp_path / "home"), sys.executable, 10, wait_s=-58.0)
    assert driver.nodes() == [Node(slurm, slurm)]
    order = NodeOrder("r", str(tmp_path / "shared"), (), whole=True)
    with pytest.raises(
        NodeRefusedError, match=r"Slurm did not begin the job within 2 s \(PENDING, (Resources|Priority)\)"
    ):
        driver.start(Node(slurm, slurm), order)
    assert not (control_folder(order) / STARTED_FILE).exists()
    subprocess.run(["scancel", blocking], check=True)
    done = run_fleet(bench, tmp_path)
    folder = tmp_path / "results" / "f"
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    event = read_events(folder)[slurm]
    assert (event.status, event.starts) == ("complete", 1)
    run = run_folder(order_for(read_fleet(folder), folder, Node(slurm, slurm)))
    for file in ("run.json", "journal.jsonl"):
        copy, original = folder / "nodes" / slurm / file, run / file
        assert copy.read_bytes() == original.read_bytes()
    assert bench("verify", str(folder / "nodes" / slurm)).returncode == 0
    refused = run_fleet(bench, tmp_path, "--require", "amx_tile,avx512_bf16,amx_int8,avx_vnni", name="g")
    assert refused.returncode == 1
    assert "refused: the CPU lacks" in refused.stdout
    failed = run_fleet(bench, tmp_path, "--partition", "none", name="h")
    assert failed.returncode == 2
    assert "no nodes can be listed" in failed.stderr
    assert not (tmp_path / "results" / "h").exists()
    driver = SlurmDriver(None, str(tmp_path / "home"), sys.executable, 10, wait_s=0.0)
    arguments = ("--suite", str(tmp_path / "mine.toml"), "--preset", "quick", "--data", "synthetic", "--threads", "1")
    order = NodeOrder("stopped", str(tmp_path / "shared"), arguments, whole=True)
    driver.start(Node(slurm, slurm), order)
    journal = run_folder(order) / "journal.jsonl"
    for _ in range(2_000):
        if journal.exists() and '"reference"' in journal.read_text():
            break
        time.sleep(0.05)
    driver.stop(Node(slurm, slurm), order)
    assert '"status":"interrupted"' in journal.read_text().splitlines()[-1]
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout == ""
