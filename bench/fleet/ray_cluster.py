"""Reach nodes by Ray: an actor on each node, with all of its CPUs, runs the node's program and hands on its lines.

Only bytes come back, which Ray does not unpickle. Whoever can send other things is inside of the cluster already.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from threading import Lock
from typing import TYPE_CHECKING, Any

from bench.fleet import ray_hand
from bench.fleet.driver import (
    ANSWER_S,
    INSTALL_S,
    MOST_LINE_BYTES,
    Node,
    NodeDamagedError,
    NodeLostError,
    NodeOrder,
    NodeRefusedError,
    Started,
    Stopped,
    install_command,
    node_command,
    node_name,
)
from bench.fleet.node import START, STOP, STREAM, answer_of, node_request
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCAL, AUTO = "local", "auto"
# Ray replaces 127.0.0.1 by an address that others can reach. It leaves the other ones of this machine alone.
LOCAL_ADDRESS = "127.0.0.2"
CONNECT_S = 5.0
# How long an actor may take to start. A call that streams waits for lines at most so long.
ACTOR_S, WAIT_S = 60.0, 20.0
# Lines are handed on when so many bytes are there, or so long after the first one: few calls while a node measures.
GATHER_BYTES, GATHER_S = 1 << 20, 5.0
HEAD = "node:__internal_head__"
HEAD_NOTE = "the head of the Ray cluster runs on the measured machine"


class RayDriver:
    """The nodes of a cluster, without its head if there are others; `home` is the checkout on each of them."""

    def __init__(self, address: str, home: str, python: str, wait_s: float) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises UserError if Ray is missing, does not answer, or lets anybody in who reaches its ports.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError(
                "--driver ray: needs Ray; install it: python -m pip install 'cnn-stack-bench[fleet-ray]'"
            ) from error
        # The nodes need nothing of this project in Ray's own Python.
        ray.cloudpickle.register_pickle_by_value(ray_hand)
        self._ray, self._home, self._python = ray, home, python
        self._place_s = ACTOR_S + wait_s
        self._actors, self._lock = dict[str, Any](), Lock()
        # Of what this process starts; an existing cluster was started with its own.
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        own: dict[str, Any] = {}
        if address == LOCAL:
            own = {"include_dashboard": False, "_node_ip_address": LOCAL_ADDRESS}
        elif address != AUTO:
            host = require_trust(address)
            require_answer(address)
            own = {"_node_ip_address": host} if is_loopback(host) else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", configure_logging=False, **own)
            require_trust(ray.get_runtime_context().gcs_address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--address {address}: {' '.join(str(error).split())[:300]}") from error
        except UserError:
            ray.shutdown()
            raise

    def nodes(self) -> list[Node]:
        """Return the nodes that are alive. A node that joins again has another id, and counts as another one."""
        alive = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        heads = [node for node in alive if HEAD in node["Resources"]]
        others = [node for node in alive if node not in heads]
        return [
            Node(
                node_name(f"{node['NodeName']}-{node['NodeID'][:8]}"),
                node["NodeID"],
                HEAD_NOTE if node in heads else "",
            )
            for node in others or heads
        ]

    def place(self, node: Node, bundle: Path) -> None:
        """Install a bundle from a folder that the node sees under the same path."""
        command = list(install_command(str(bundle), self._home))
        output = self._call(node, "run", command, b"", INSTALL_S, limit_s=INSTALL_S + ACTOR_S)
        if output.startswith(ray_hand.FAILED_MARK):
            raise NodeRefusedError(output[1:].decode(errors="replace"))

    def start(self, node: Node, order: NodeOrder) -> Started:
        return answer_of(self._ask(node, node_request(START, order)), Started)

    def stream(self, node: Node, order: NodeOrder, offset: int) -> Iterator[bytes]:
        command = list(node_command(self._home, self._python))
        self._call(node, "open", command, node_request(STREAM, order, offset))
        while chunk := self._call(node, "read", WAIT_S, GATHER_BYTES, GATHER_S, limit_s=ANSWER_S):
            if len(chunk) > 2 * MOST_LINE_BYTES:
                raise NodeDamagedError(f"a call returned {len(chunk):,} bytes")
            for line in chunk[:-1].split(b"\n"):
                if line.startswith(b"{"):
                    answer_of(line, Started)
                yield line

    def stop(self, node: Node, order: NodeOrder) -> None:
        answer_of(self._ask(node, node_request(STOP, order)), Stopped)

    def close(self) -> None:
        self._ray.shutdown()

    def _ask(self, node: Node, request: bytes) -> bytes:
        command = list(node_command(self._home, self._python))
        answer = self._call(node, "run", command, request, ANSWER_S)
        if answer.startswith(ray_hand.FAILED_MARK):
            raise NodeRefusedError(answer[1:].decode(errors="replace"))
        return answer

    def _call(self, node: Node, method: str, *arguments: object, limit_s: float = ANSWER_S + ACTOR_S) -> bytes:
        """Return the bytes that a method of a node's actor returns; raises NodeError if there is none."""
        errors = self._ray.exceptions
        try:
            actor = self._actor(node)
            answer = self._ray.get(getattr(actor, method).remote(*arguments), timeout=limit_s)
        except errors.GetTimeoutError as error:
            raise NodeLostError(f"no answer within {limit_s:.0f} s") from error
        except (errors.ActorDiedError, errors.ActorUnschedulableError, errors.ActorUnavailableError) as error:
            raise NodeLostError(self._why_lost(node, error)) from error
        except errors.RayError as error:
            raise NodeRefusedError(str(error).splitlines()[-1]) from error
        if not isinstance(answer, bytes):
            raise NodeDamagedError(f"an answer of the type {type(answer).__name__}")
        return answer

    def _actor(self, node: Node) -> Any:
        """Return the actor on a node, which it waits for; raises NodeRefusedError if the node's CPUs are taken."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        with self._lock:
            actor = self._actors.get(node.address)
        if actor is not None:
            return actor
        cores = next(
            (item["Resources"].get("CPU", 0) for item in self._ray.nodes() if item["NodeID"] == node.address), 0
        )
        if not cores:
            raise NodeLostError("the node has left the cluster")
        options = {
            "num_cpus": cores,
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node.address, soft=False),
        }
        actor = self._ray.remote(**options)(ray_hand.Hand).remote()
        try:
            self._ray.get(actor.open.remote([], b""), timeout=self._place_s)
        except self._ray.exceptions.GetTimeoutError as error:
            self._ray.kill(actor)
            raise NodeRefusedError(
                f"Ray did not give its {cores:.0f} CPUs within {self._place_s:.0f} s; another job has them"
            ) from error
        with self._lock:
            self._actors[node.address] = actor
        return actor

    def _why_lost(self, node: Node, error: Exception) -> str:
        """Return what the cluster says about a node that is gone."""
        for item in self._ray.nodes():
            if item["NodeID"] == node.address and not item["Alive"]:
                return f"Ray counts the node as dead: {item.get('DeathReasonMessage') or 'no reason is known'}"
        return str(error).splitlines()[0]


def require_trust(address: str) -> str:
    """Return the host of a cluster's address.

    Raises UserError unless it is this machine's own, or the cluster's ports ask for a token.
    """
    host = address.rpartition(":")[0].strip("[]")
    if not host or not address.rpartition(":")[2].isdecimal():
        raise UserError(f"--address {address}: allowed: {AUTO}, {LOCAL}, or HOST:PORT of the cluster's head")
    if not is_loopback(host) and os.environ.get("RAY_AUTH_MODE") != "token":
        raise UserError(
            f"--address {address}: whoever reaches a Ray cluster can run code on it; start it with "
            f"RAY_AUTH_MODE=token, and set that here with its token, or use one on {LOCAL_ADDRESS}"
        )
    return host


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_answer(address: str) -> None:
    """Raise UserError unless something listens at the address; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: nothing answers there ({error}); start the cluster first") from error
