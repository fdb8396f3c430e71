"""Reach nodes by Slurm: submitit submits a job for each node, which has the node to itself.

The fleet's folder must be on a file system that the nodes share. The driver reads the run there, so nothing but the run
itself is on the node. No result of a job is read: it would be a pickle.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from bench.codec import CodecError, decode, read_json
from bench.fleet.driver import (
    ANSWER_S,
    INSTALL_S,
    Ended,
    Node,
    NodeError,
    NodeLostError,
    NodeOrder,
    NodeRefusedError,
    Started,
    install_command,
    node_command,
    node_name,
)
from bench.fleet.node import ATTEND, ENDED_FILE, STARTED_FILE, STOP_S, Feed, control_folder, has_ended, node_request
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A job that has not begun may wait in the queue for so long, and longer by the fleet's own option.
QUEUE_S, LOOK_S = 60.0, 2.0
# How often Slurm is asked whether a job is still there.
ASK_S = 30.0
JOB_FILE, JOB_NAME = "job", "bench-fleet"
UNFIT = ("down", "drain", "fail", "maint", "unk")


class SlurmDriver:
    """The nodes of a partition; `home` is the checkout on each of them. Slurm ends a job after `minutes`."""

    def __init__(self, partition: str | None, home: str, python: str, minutes: int, wait_s: float) -> None:
        """Find Slurm's commands; raises UserError if they, or submitit, are missing."""
        try:
            import submitit
        except ImportError as error:
            raise UserError(
                "--driver slurm: needs submitit; install it: python -m pip install 'cnn-stack-bench[fleet-slurm]'"
            ) from error
        for command in ("sinfo", "squeue", "sbatch", "scancel", "srun"):
            if shutil.which(command) is None:
                raise UserError(f"--driver slurm: needs Slurm's command {command}; run it where there is one")
        self._submitit, self._partition, self._minutes = submitit, partition, minutes
        self._home, self._python, self._queue_s = home, python, QUEUE_S + wait_s

    def nodes(self) -> list[Node]:
        if not (listed := self._listed()):
            raise NodeRefusedError(f"Slurm lists none in partition {self._partition or '(default)'}")
        return [Node(node_name(name), name) for name in listed]

    def place(self, node: Node, bundle: Path) -> None:
        """Install a bundle on the node, from a folder that it sees under the same path."""
        command = install_command(str(bundle), self._home)
        _run(["srun", "--exclusive", "--nodelist", node.address, *self._in_partition(), *command], INSTALL_S)

    def start(self, node: Node, order: NodeOrder) -> Started:
        """Submit a job, unless one is under way, and wait until it has begun."""
        control = control_folder(order)
        control.mkdir(parents=True, exist_ok=True)
        begun = not has_ended(order) and not self._has_job(control)
        if begun:
            state, cores = self._listed().get(node.address, ("unknown", 0))
            if state.startswith(UNFIT):
                raise NodeRefusedError(f"Slurm says that the node is {state}")
            for name in (STARTED_FILE, ENDED_FILE):
                (control / name).unlink(missing_ok=True)
            (control / "request.json").write_bytes(node_request(ATTEND, order))
            (control / JOB_FILE).write_text(self._submit(node, cores, control), encoding="utf-8")
        return self._wait_for_begin(control, begun=begun)

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]:
        """Yield what is new in the shared folder. It may show a file later than the node has written it."""
        control, feed, asked, gone = control_folder(order), Feed(order, offset), time.monotonic(), 0
        while True:
            ended = (control / ENDED_FILE).exists()
            yield from feed.news()
            if ended:
                yield b"E" + (control / ENDED_FILE).read_bytes()
                return
            if time.monotonic() - asked >= ASK_S:
                asked = time.monotonic()
                # A controller that is silent for a while does not say that the job is gone.
                with suppress(NodeError):
                    gone = 0 if self._has_job(control) else gone + 1
                if gone > 1:
                    raise NodeLostError("Slurm lists its job no longer, and the run has not ended")
            time.sleep(LOOK_S)

    def stop(self, node: Node, order: NodeOrder) -> None:
        control, deadline = control_folder(order), time.monotonic() + STOP_S
        if not self._has_job(control):
            return
        job = (control / JOB_FILE).read_text(encoding="utf-8")
        # A job that has begun ends by itself, with its report.
        begun = (control / STARTED_FILE).exists()
        _run(["scancel", *(("--signal=TERM",) if begun else ()), job], ANSWER_S)
        while self._has_job(control):
            if time.monotonic() > deadline:
                raise NodeRefusedError(f"its job {job} goes on, {STOP_S:.0f} s after it was asked to end")
            time.sleep(LOOK_S)

    def close(self) -> None:
        pass

    def _listed(self) -> dict[str, tuple[str, int]]:
        """Return state and number of CPUs of each node."""
        output = _run(["sinfo", "-N", "-h", "-o", "%N|%T|%c|%P", *self._in_partition()], ANSWER_S)
        rows = [line.split("|") for line in output.splitlines()]
        # Slurm marks its default partition with a star.
        return {name: (state, int(cores)) for name, state, cores, in_ in rows if self._partition or in_.endswith("*")}

    def _in_partition(self) -> tuple[str, ...]:
        return ("--partition", self._partition) if self._partition else ()

    def _submit(self, node: Node, cores: int, control: Path) -> str:
        executor = self._submitit.AutoExecutor(folder=control / "slurm", cluster="slurm")
        executor.update_parameters(
            name=JOB_NAME,
            timeout_min=self._minutes,
            nodes=1,
            tasks_per_node=1,
            cpus_per_task=cores,
            slurm_exclusive=True,
            slurm_nodelist=node.address,
            # One task with every CPU, bound to none of them. Slurm must not start a failed job again.
            slurm_srun_args=[f"--cpus-per-task={cores}", "--cpu-bind=none"],
            slurm_additional_parameters={"no_requeue": True},
            **({"slurm_partition": self._partition} if self._partition else {}),
        )
        command = [*node_command(self._home, self._python), str(control / "request.json")]
        try:
            job = executor.submit(self._submitit.helpers.CommandFunction(command, verbose=False))
        except (self._submitit.core.utils.FailedJobError, OSError) as error:
            raise NodeRefusedError(f"Slurm refuses the job: {error}") from error
        return str(job.job_id)

    def _has_job(self, control: Path) -> bool:
        """Return whether the last job for a folder is queued or runs; raises NodeError if Slurm does not answer."""
        try:
            job = (control / JOB_FILE).read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        # A list of all: for a job that is gone, `squeue --job` fails as it does when nothing answers.
        return job in _run(["squeue", "-h", "--name", JOB_NAME, "-o", "%A"], ANSWER_S).split()

    def _wait_for_begin(self, control: Path, *, begun: bool) -> Started:
        deadline = time.monotonic() + self._queue_s
        while True:
            with suppress(OSError, CodecError):
                return decode(
                    Started, read_json((control / STARTED_FILE).read_text(encoding="utf-8")) | {"begun": begun}
                )
            with suppress(OSError, CodecError):
                ended = decode(Ended, read_json((control / ENDED_FILE).read_text(encoding="utf-8")))
                raise NodeRefusedError(ended.line)
            if not self._has_job(control):
                time.sleep(LOOK_S)
                if not (control / STARTED_FILE).exists() and not (control / ENDED_FILE).exists():
                    raise NodeLostError(f"its job ended before the run began; see {control / 'slurm'}")
            elif time.monotonic() > deadline:
                job = (control / JOB_FILE).read_text(encoding="utf-8")
                reason = _run(["squeue", "-h", "-o", "%T, %r", "-j", job], ANSWER_S).strip()
                _run(["scancel", job], ANSWER_S)
                raise NodeRefusedError(f"Slurm did not begin the job within {self._queue_s:.0f} s ({reason})")
            time.sleep(LOOK_S / 4)


def _run(command: list[str], limit_s: float) -> str:
    """Return what a command of Slurm writes; raises NodeError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)  # noqa: S603 - Slurm
    except subprocess.TimeoutExpired as error:
        raise NodeLostError(f"{command[0]}: no answer within {limit_s:.0f} s") from error
    if done.returncode:
        raise NodeRefusedError(f"{command[0]}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout
