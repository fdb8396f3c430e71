"""The driver `slurm`, on a cluster of one node on this machine."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from bench.fleet.driver import Node, NodeOrder, NodeRefusedError
from bench.fleet.node import STARTED_FILE, control_folder
from bench.fleet.state import read_events
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
    from bench.fleet.slurm import SlurmDriver

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
    for file in ("run.json", "journal.jsonl"):
        copy, original = folder / "nodes" / slurm / file, tmp_path / "results" / "f.on-nodes" / f"f.{slurm}" / file
        assert copy.read_bytes() == original.read_bytes()
    assert bench("verify", str(folder / "nodes" / slurm)).returncode == 0
    refused = run_fleet(bench, tmp_path, "--require", "amx_tile,avx512_bf16,amx_int8,avx_vnni", name="g")
    assert refused.returncode == 1
    assert "refused: the CPU lacks" in refused.stdout
    failed = run_fleet(bench, tmp_path, "--partition", "none", name="h")
    assert failed.returncode == 2
    assert "no nodes can be listed" in failed.stderr
    assert not (tmp_path / "results" / "h").exists()
