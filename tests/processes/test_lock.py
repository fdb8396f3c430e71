import fcntl
import multiprocessing
import os
import signal
import time

import pytest

from bench.processes.lock import lock_path, only_command_in, only_measurement
from models.errors import UserError


@pytest.fixture(autouse=True)
def lock(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_LOCK", str(tmp_path / "lock"))
    return tmp_path / "lock"


def hold(folder, entered) -> None:
    with only_measurement(folder):
        entered.set()
        time.sleep(600)


@pytest.fixture
def other(tmp_path):
    """Return a process that measures into results/other."""
    context = multiprocessing.get_context("fork")
    entered = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "results" / "other", entered))
    process.start()
    assert entered.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_measurement_is_refused_and_names_the_first(other, tmp_path) -> None:
    pattern = rf"another measurement is under way.*process {other.pid}, .*results/other"
    with pytest.raises(UserError, match=pattern), only_measurement(tmp_path / "mine"):
        pass


def test_a_killed_measurement_leaves_the_machine_free(other, tmp_path) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.join()
    with only_measurement(tmp_path / "mine"):
        pass


def test_trainings_share_the_machine_with_each_other_but_not_with_a_run(tmp_path) -> None:
    with only_measurement(tmp_path / "one", shared=True):
        with only_measurement(tmp_path / "two", shared=True):
            pass
        with pytest.raises(UserError, match="another measurement"), only_measurement(tmp_path / "run"):
            pass
    with (
        only_measurement(tmp_path / "run"),
        pytest.raises(UserError, match=r"another measurement is under way on this machine \(process .*/run\)"),
        only_measurement(tmp_path / "one", shared=True),
    ):
        pass


def test_one_command_writes_to_a_folder_at_a_time(tmp_path) -> None:
    for _ in range(2):
        with (
            only_command_in(tmp_path),
            pytest.raises(UserError, match="another command is writing to it"),
            only_command_in(tmp_path),
        ):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [only_measurement, only_command_in])
def test_a_look_at_a_lock_keeps_nobody_from_taking_it(tmp_path, lock, monkeypatch, command) -> None:
    lock.touch()
    look = os.open(lock if command is only_measurement else tmp_path, os.O_RDONLY)
    fcntl.flock(look, fcntl.LOCK_SH)
    # It ends while the owner waits.
    monkeypatch.setattr(time, "sleep", lambda _: os.close(look))
    with command(tmp_path), pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(look)


def test_an_ended_measurement_leaves_the_machine_free(tmp_path, lock) -> None:
    for _ in range(2):
        with only_measurement(tmp_path / "mine"):
            assert "mine" in lock.read_text()
        assert not lock.read_text()


def test_a_link_is_not_followed(tmp_path, lock) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock.symlink_to(victim)
    with pytest.raises(UserError, match="can't be locked"), only_measurement(tmp_path / "mine"):
        pass
    assert victim.read_text() == "precious"


def test_what_the_other_one_says_is_shown_without_control_characters(other, tmp_path, lock) -> None:
    lock.write_text("a\x1b[31mb")
    with pytest.raises(UserError, match=r"\(a\\x1b\[31mb\)"), only_measurement(tmp_path / "mine"):
        pass


def test_all_users_of_a_machine_share_the_lock(monkeypatch) -> None:
    monkeypatch.delenv("BENCH_LOCK")
    before = lock_path()
    monkeypatch.setenv("HOME", "/elsewhere")
    assert lock_path() == before
