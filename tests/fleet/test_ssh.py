"""The driver `ssh` and the program on the node, with a client that runs commands on this machine."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from bench.commands.fleet import order_for
from bench.fleet.driver import (
    Node,
    NodeDamagedError,
    NodeLostError,
    NodeOrder,
    NodeRefusedError,
    Started,
    Stopped,
    chunks_from,
    lines_from,
)
from bench.fleet.node import RefusalError, answer_of, control_folder, stop
from bench.fleet.ssh import SshDriver
from bench.fleet.state import read_events, read_fleet
from bench.processes.lock import is_free
from conftest import SMALL
from models.errors import UserError
from tests.command_line import environment_of


@pytest.fixture
def driver(client, tmp_path):
    (tmp_path / "hosts").write_text("# nodes\nuser@here\n\ngone # the second\n")
    return SshDriver(tmp_path / "hosts", str(tmp_path), sys.executable)


HERE, GONE = Node("user-here", "user@here"), Node("gone", "gone")


def order(tmp_path, **options) -> NodeOrder:
    return NodeOrder("r", str(tmp_path / "on node"), (), **options)


def test_a_hosts_file_lists_destinations(driver, tmp_path) -> None:
    assert driver.nodes() == [HERE, GONE]
    (tmp_path / "hosts").write_text("a\nb\n")
    assert [node.name for node in driver.nodes()] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no host"),
        ("-oProxyCommand=x", "allowed: one destination of ssh on each line"),
        ("a b", "allowed: one destination of ssh on each line"),
        ("u@a\nu:a", "differ in special characters only"),
    ],
)
def test_a_wrong_hosts_file_is_refused(client, tmp_path, text, reason) -> None:
    (tmp_path / "hosts").write_text(text)
    with pytest.raises(UserError, match=reason):
        SshDriver(tmp_path / "hosts", "/h", "python")


def test_a_hosts_file_without_end_is_refused(client) -> None:
    with pytest.raises(UserError, match=r"--hosts /dev/zero: can't be read \(not an ordinary file\)"):
        SshDriver(Path("/dev/zero"), "/h", "python")


def test_without_a_client_one_line_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install it: apt-get install openssh-client"):
        SshDriver(tmp_path / "hosts", "/h", "python")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"instruction_sets": ("amx_tile", "nothing")}, r"the CPU lacks (amx_tile, )?nothing; it has"),
        ({"free_bytes": 1 << 60}, r"GB free; needs 1152921504.6 GB"),
        ({"nice": -20}, r"processes start at nice \d+, and it can't be undone without root"),
    ],
)
def test_a_node_that_is_not_fit_refuses(driver, tmp_path, monkeypatch, options, reason) -> None:
    if "nice" in options and os.geteuid() == 0:
        pytest.skip("root may raise its priority")
    with pytest.raises(NodeRefusedError, match=reason):
        driver.start(HERE, order(tmp_path, **options))
    assert not (tmp_path / "on node" / "r").exists()


def test_a_node_that_does_not_answer_is_lost(driver, tmp_path) -> None:
    with pytest.raises(NodeLostError, match="No route to host"):
        driver.start(GONE, order(tmp_path))
    with pytest.raises(NodeLostError, match="No route to host"):
        list(driver.stream(GONE, order(tmp_path), 0))


def test_a_checkout_that_is_not_there_is_a_reason(tmp_path, client) -> None:
    (tmp_path / "hosts").write_text("here")
    with pytest.raises(NodeRefusedError, match=r"\.tox/vanilla/bin/python: not found"):
        SshDriver(tmp_path / "hosts", "/no where", ".tox/vanilla/bin/python").start(HERE, order(tmp_path))


def test_a_bundle_is_placed_once(driver, tmp_path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "SHA256SUMS").write_text("sums\n")
    (bundle / "install.sh").write_text('mkdir "$1" && cp "$(dirname "$0")/SHA256SUMS" "$1/installed"\n')
    placed = SshDriver(tmp_path / "hosts", str(tmp_path / "a home"), sys.executable)
    for _ in range(2):
        placed.place(HERE, bundle)
    assert (tmp_path / "a home" / "installed").read_text() == "sums\n"
    (bundle / "SHA256SUMS").write_text("others\n")
    with pytest.raises(NodeRefusedError, match="File exists"):
        placed.place(HERE, bundle)


def test_what_is_no_answer_is_damaged() -> None:
    with pytest.raises(NodeDamagedError, match="its answer is no answer"):
        answer_of(b'{"begun": 1}', Started)
    with pytest.raises(NodeRefusedError, match="disk full"):
        answer_of(b'{"refused": "disk full"}', Stopped)


@pytest.mark.parametrize(
    ("address", "error", "reason"),
    [
        ("floods", NodeDamagedError, "an answer of more than 1,000,000 bytes"),
        ("complains", NodeLostError, "the last line"),
        ("lingers", NodeRefusedError, "its errors stay open"),
    ],
)
def test_what_a_node_writes_takes_a_bounded_part_of_memory(
    driver, tmp_path, monkeypatch, address, error, reason
) -> None:
    monkeypatch.setattr("bench.fleet.ssh.MOST_LINE_BYTES", 1_000_000)
    tracemalloc.start()
    with pytest.raises(error, match=reason):
        driver.start(Node(address, address), order(tmp_path))
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_run_that_goes_on_is_not_called_stopped(driver, tmp_path, monkeypatch) -> None:
    """Whoever holds the file of the run does not end."""
    monkeypatch.setattr("bench.fleet.node.STOP_S", 0.0)
    control = control_folder(order(tmp_path))
    control.mkdir(parents=True)
    with (control / "attended").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RefusalError, match=r"the run goes on, 0 s after it was asked to end; see .*/pid"):
            stop(order(tmp_path))
    stop(order(tmp_path))


def test_a_refusal_to_stop_reaches_the_driver(driver, tmp_path) -> None:
    refusing = tmp_path / "refusing"
    refusing.write_text("""#!/bin/sh\necho '{"refused": "the run goes on"}'\n""")
    refusing.chmod(stat.S_IRWXU)
    with pytest.raises(NodeRefusedError, match="the run goes on"):
        SshDriver(tmp_path / "hosts", str(tmp_path), str(refusing)).stop(HERE, order(tmp_path))
    driver.stop(HERE, order(tmp_path))


def test_lines_arrive_complete_and_silence_is_noticed() -> None:
    source, sink = os.pipe()
    os.write(sink, b"Ja\nJb\nJ")
    said, (errors, complaints) = bytearray(), os.pipe()
    lines = lines_from(chunks_from(source, errors, said, silence_s=0.05))
    assert [next(lines), next(lines)] == [b"Ja", b"Jb"]
    with pytest.raises(NodeLostError, match="no sign of life"):
        next(lines)
    os.write(complaints, b"why")
    os.close(complaints)
    os.close(sink)
    assert list(lines_from(chunks_from(source, errors, said, silence_s=60.0))) == []
    assert said == b"why"
    os.close(source)
    os.close(errors)


def fleet(bench, tmp_path, *options, name="f", **variables):
    (tmp_path / "mine.toml").write_text(SMALL)
    path = {"PATH": f"{tmp_path / 'client'}:{os.environ['PATH']}"}
    return bench(
        "fleet", "run", "--driver", "ssh", "--hosts", "hosts", "--home", str(tmp_path / "home"), "--python",
        sys.executable, "--name", name, "--suite", str(tmp_path / "mine.toml"), "--preset", "smoke", "--data",
        "synthetic", "--threads", "1", *options, **path, **variables,
    )  # fmt: skip


def run_of(folder) -> str:
    return order_for(read_fleet(folder), folder, Node("here", "here")).name


def wait_for(path, text) -> None:
    # Only what hangs takes so long.
    for _ in range(12_000):
        if path.exists() and text in path.read_text():
            return
        time.sleep(0.05)
    raise TimeoutError(f"{path}: has no {text}")


@pytest.mark.fleet
def test_a_fleet_goes_on_after_its_driver_and_a_run_were_killed(driver, bench, tmp_path) -> None:
    """A run outlives the driver. A killed run goes on with its journal, when somebody goes on with the fleet."""
    (tmp_path / "hosts").write_text("here\ngone\n")
    folder, on_node = tmp_path / "results" / "f", tmp_path / "home" / "results"
    here = folder / "nodes" / "here"
    killed = threading.Thread(target=fleet, args=(killable(tmp_path), tmp_path))
    killed.start()
    wait_for(here / "journal.jsonl", "reference")
    os.kill(int((tmp_path / "driver").read_text()), signal.SIGKILL)
    killed.join()
    assert read_events(folder)["here"].status == "measuring"
    run = run_of(folder)
    wait_for(on_node / run / "journal.jsonl", '"blockend"')
    os.killpg(os.getpgid(int((on_node / ".fleet" / run / "pid").read_text())), signal.SIGKILL)
    (tmp_path / "hosts").write_text("here\n")
    done = bench("fleet", "run", "--resume", "f", PATH=f"{tmp_path / 'client'}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr) == (1, "")
    events = read_events(folder)
    assert {name: (event.status, event.starts) for name, event in events.items()} == {
        "here": ("complete", 2), "gone": ("left", 0),
    }  # fmt: skip
    for file in ("run.json", "journal.jsonl"):
        assert (on_node / run / file).read_bytes() == (here / file).read_bytes()
    assert (here / "journal.jsonl").read_text().count('"resume"') == 1
    assert bench("verify", str(here)).returncode == 0
    assert "toy good" in (folder / "report.md").read_text()
    # What has ended is not started again.
    assert bench("fleet", "run", "--resume", "f", PATH=f"{tmp_path / 'client'}:{os.environ['PATH']}").returncode == 1
    assert read_events(folder) == events


@pytest.mark.fleet
def test_a_fleet_that_is_interrupted_goes_on_without_its_driver_until_it_is_stopped(driver, bench, tmp_path) -> None:
    (tmp_path / "hosts").write_text("here\n")
    folder, on_node = tmp_path / "results" / "f", tmp_path / "home" / "results"
    driving = threading.Thread(target=fleet, args=(killable(tmp_path), tmp_path, "--preset", "quick"))
    driving.start()
    wait_for(folder / "nodes" / "here" / "journal.jsonl", "reference")
    os.kill(int((tmp_path / "driver").read_text()), signal.SIGINT)
    driving.join()
    assert "interrupted; the nodes go on." in (tmp_path / "out").read_text()
    run = run_of(folder)
    control = on_node / ".fleet" / run
    assert not is_free(control / "attended")
    # What attends the run is killed. The run has its group.
    running = int((control / "pid").read_text())
    os.kill(os.getpgid(running), signal.SIGKILL)
    stopped = bench("fleet", "stop", "results/f", PATH=f"{tmp_path / 'client'}:{os.environ['PATH']}")
    assert (stopped.returncode, stopped.stdout) == (0, "here: stopped\n")
    assert is_free(control / "attended")
    assert '"status":"interrupted"' in (on_node / run / "journal.jsonl").read_text().splitlines()[-1]


def killable(tmp_path):
    """Return a function that runs the command line in a process of its own, whose id it writes to a file."""

    def run(*arguments, **variables) -> None:
        environment = environment_of(tmp_path, arguments) | variables
        command = [sys.executable, "-m", "bench", *arguments]
        with (
            (tmp_path / "out").open("w") as out,
            subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=out) as process,
        ):
            (tmp_path / "driver").write_text(str(process.pid))

    return run


def test_a_fleet_that_is_there_is_not_written_over(driver, bench, tmp_path) -> None:
    (tmp_path / "results" / "f").mkdir(parents=True)
    done = fleet(bench, tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "exists already; go on with it by --resume f" in done.stderr
    assert list((tmp_path / "results" / "f").iterdir()) == []


def test_a_busy_node_refuses_and_the_holder_is_named(driver, bench, tmp_path) -> None:
    (tmp_path / "hosts").write_text("here\n")
    lock = tmp_path / "lock"
    holder = (
        "import os, sys, fcntl; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); "
        "f.write('process 1, /x/other'); f.flush(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        done = fleet(bench, tmp_path, BENCH_LOCK=str(lock))
        process.stdin.close()
    assert done.returncode == 1
    event = read_events(tmp_path / "results" / "f")["here"]
    assert event.status == "refused"
    assert "another measurement is under way on this machine (process 1, /x/other)" in event.reason


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--seed", "1"], "--seed: no option of a fleet"),
        (["--preset", "no"], "unknown preset 'no'"),
        (["--no-such-option"], "No such option: --no-such-option"),
        (["--suite", "mine.toml"], "allowed: a name, or the absolute path"),
        (["--require", "mmx"], "unknown instruction set 'mmx'"),
        (["--free", "-1"], "--free -1: allowed: 0 or more"),
        (["--wait", "-1"], "--wait -1: allowed: 0 or more"),
        (["--free", "nan"], "--free nan: allowed: 0 or more"),
        (["--patience", "inf"], "--patience inf: allowed: more than 0 minutes"),
        (["--patience", "0"], "--patience 0: allowed: more than 0 minutes"),
        (["--driver", "rsh"], "unknown driver 'rsh'; allowed: "),
        (["--bundle", "nowhere"], "nowhere: has no install.sh"),
        (["--home", "relative"], "--home relative: allowed: an absolute path"),
        (["--again", "here"], "--again: needs --resume"),
        (["--resume", "f"], "--resume repeats the fleet's own options"),
        (["--name", "../f"], "--name ../f: allowed: letters"),
    ],
)
def test_wrong_options_of_a_fleet_are_one_line(driver, bench, tmp_path, options, reason) -> None:
    done = fleet(bench, tmp_path, *options)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert reason in done.stderr
    assert not (tmp_path / "results").exists()
