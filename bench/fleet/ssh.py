"""Reach nodes by OpenSSH: a file lists them, one destination of `ssh` on each line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import time
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, TYPE_CHECKING, cast

from bench.bundle.bundle import SUMS
from bench.fleet.driver import (
    ANSWER_S,
    INSTALL_S,
    MOST_LINE_BYTES,
    SILENCE_S,
    Node,
    NodeDamagedError,
    NodeLostError,
    NodeOrder,
    NodeRefusedError,
    Started,
    Stopped,
    chunks_from,
    install_command,
    lines_from,
    node_command,
    node_name,
)
from bench.fleet.node import START, STOP, STREAM, answer_of, node_request
from models.errors import UserError
from models.files import read_at_most

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Of ssh itself: the connection failed. Any other status is that of the command on the node.
NO_CONNECTION = 255
MOST_HOSTS_BYTES = 1_000_000
# The node counts as lost after 60 s without an answer to its client; nothing asks for a password.
OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15", "-o",
    "ServerAliveCountMax=4",
)  # fmt: skip


class SshDriver:
    """Nodes that answer at the destinations in a hosts file; `home` is the checkout on each of them."""

    def __init__(self, hosts: Path, home: str, python: str, config: Path | None = None) -> None:
        """Read the hosts file.

        Raises UserError if there is no OpenSSH client, or the hosts file can't be used.
        """
        if shutil.which("ssh") is None:
            raise UserError("--driver ssh: needs the OpenSSH client; install it: apt-get install openssh-client")
        self._hosts, self._home, self._python = hosts, home, python
        self._client = ("ssh", *OPTIONS, *(("-F", str(config)) if config else ()))
        self._open = set[subprocess.Popen[bytes]]()
        self.nodes()

    def nodes(self) -> list[Node]:
        """Read the hosts file again: nodes may be added to it while others measure."""
        try:
            text = read_at_most(self._hosts, MOST_HOSTS_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--hosts {self._hosts}: can't be read ({getattr(error, 'strerror', error)})") from error
        lines = [line.partition("#")[0].strip() for line in text.splitlines()]
        addresses = list(dict.fromkeys(filter(None, lines)))
        for address in addresses:
            if address.startswith("-") or not address.isprintable() or " " in address:
                raise UserError(
                    f"--hosts {self._hosts}: {address!a}: allowed: one destination of ssh on each line, such as "
                    "user@host or a name in ssh's configuration"
                )
        if not addresses:
            raise UserError(f"--hosts {self._hosts}: names no host; write one destination of ssh on each line")
        names = [node_name(address) for address in addresses]
        if len(set(names)) < len(names):
            raise UserError(f"--hosts {self._hosts}: two hosts differ in special characters only; use names of ssh")
        return [Node(name, address) for name, address in zip(names, addresses, strict=True)]

    def place(self, node: Node, bundle: Path) -> None:
        """Copy a bundle beside `home` and install it there, as far as that has not been done before."""
        copied, partial = f"{self._home}.bundle", f"{self._home}.bundle.part"
        sums = (bundle / SUMS).read_bytes()
        if self._run(node, ("cat", f"{copied}/{SUMS}"), required=False) != sums:
            self._run(node, ("rm", "-rf", copied, partial))
            self._run(node, ("mkdir", "-p", partial))
            pack = ["tar", "-C", str(bundle), "-cf", "-", "."]
            with subprocess.Popen(pack, stdout=subprocess.PIPE) as tar:  # noqa: S603 - tar, with a path of the user
                self._run(node, ("tar", "-C", partial, "-xf", "-"), stdin=tar.stdout, limit_s=INSTALL_S)
            if tar.returncode:
                raise NodeRefusedError(f"{bundle}: can't be packed")
            self._run(node, ("mv", "-T", partial, copied))
        self._run(node, install_command(copied, self._home), limit_s=INSTALL_S)

    def start(self, node: Node, order: NodeOrder) -> Started:
        return answer_of(self._ask(node, node_request(START, order)), Started)

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]:
        command = node_command(self._home, self._python)
        with self._connection(node, command, given=node_request(STREAM, order, offset)) as chunks:
            for line in lines_from(chunks):
                if line.startswith(b"{"):
                    answer_of(line, Started)
                yield line

    def stop(self, node: Node, order: NodeOrder) -> None:
        answer_of(self._ask(node, node_request(STOP, order)), Stopped)

    def close(self) -> None:
        for process in list(self._open):
            process.terminate()

    def _ask(self, node: Node, request: bytes) -> bytes:
        return self._run(node, node_command(self._home, self._python), given=request)

    def _run(
        self,
        node: Node,
        command: tuple[str, ...],
        *,
        given: bytes = b"",
        stdin: IO[bytes] | None = None,
        limit_s: float = ANSWER_S,
        required: bool = True,
    ) -> bytes:
        """Return what a command on a node writes; raises NodeError unless it succeeds."""
        answer, deadline = bytearray(), time.monotonic() + limit_s
        with self._connection(node, command, given, stdin, limit_s, required=required) as chunks:
            for chunk in chunks:
                answer += chunk
                if len(answer) > MOST_LINE_BYTES:
                    raise NodeDamagedError(f"an answer of more than {MOST_LINE_BYTES:,} bytes")
                if time.monotonic() > deadline:
                    raise NodeLostError(f"no end of the answer within {limit_s:.0f} s")
        return bytes(answer)

    @contextmanager
    def _connection(
        self,
        node: Node,
        command: tuple[str, ...],
        given: bytes,
        stdin: IO[bytes] | None = None,
        silence_s: float = SILENCE_S,
        *,
        required: bool = True,
    ) -> Iterator[Iterator[bytes]]:
        """Run a command on a node, and hand on what it writes; raises NodeError if it, or the connection, fails."""
        process = subprocess.Popen(  # noqa: S603 - the words of the command are quoted for the node's shell
            [*self._client, "--", node.address, shlex.join(command)],
            stdin=stdin or subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C ends the driver, which then closes the connections.
            start_new_session=True,
        )
        self._open.add(process)
        output, errors, said = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr), bytearray()
        try:
            # A client that has ended already tells more by its exit status.
            with suppress(BrokenPipeError), process.stdin or nullcontext() as stream:
                if stream:
                    stream.write(given)
            yield chunks_from(output.fileno(), errors.fileno(), said, silence_s)
            status = process.wait(silence_s)
            if required or status == NO_CONNECTION:
                raise_for(status, said)
        except subprocess.TimeoutExpired as error:
            raise NodeLostError(f"no end within {silence_s:.0f} s after its answer") from error
        finally:
            process.kill()
            process.wait()
            output.close()
            errors.close()
            self._open.discard(process)


def raise_for(status: int, errors: bytes | bytearray) -> None:
    """Raise NodeError for the exit status of ssh, unless it is 0."""
    said = errors.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {status}"]
    if status == NO_CONNECTION:
        raise NodeLostError(said[0])
    if status:
        raise NodeRefusedError(said[0])
