import socket
import subprocess
import sys
from contextlib import closing

import pytest

from bench.worker.network import (
    LOOPBACK,
    address_of,
    interface_names,
    keep_to_loopback,
    listening_addresses,
    reserve_address,
)
from models.errors import UserError
from tests.network import HOSTS, WIRE, two_namespaces

# Listens on all interfaces; with a word, only this machine may connect from then on.
SERVER = """\
import socket, sys
from bench.worker.network import keep_to_loopback
server = socket.create_server(("0.0.0.0", 0))
if sys.argv[1:]:
    keep_to_loopback(sys.argv[1])
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
CLIENT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"


def test_the_loopback_interface_has_its_address() -> None:
    assert LOOPBACK in interface_names()
    assert address_of(LOOPBACK) == "127.0.0.1"


def test_an_unknown_interface_is_refused_with_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"no network interface 'wire9' here; allowed: .*lo"):
        address_of("wire9")


def test_a_reserved_address_is_given_to_nobody_else_but_its_owner_may_listen_there() -> None:
    reserved = [reserve_address(LOOPBACK) for _ in range(5)]
    assert len({one.address for one in reserved}) == 5
    assert listening_addresses() == ()
    port = int(reserved[0].address.split(":")[1])
    with closing(socket.socket()) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", port))
        server.listen()
        assert listening_addresses() == ("0.0.0.0%*",)
        keep_to_loopback("another")
        assert listening_addresses() == ("0.0.0.0%*",)
        keep_to_loopback(LOOPBACK)
        assert listening_addresses() == ("0.0.0.0%lo",)
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    for one in reserved:
        one.listener.close()


def test_a_server_kept_to_loopback_cannot_be_reached_from_another_network_namespace() -> None:
    with two_namespaces() as (here, there):
        reached = []
        for words in ((), (LOOPBACK,)):
            call = [*here, sys.executable, "-c", SERVER, *words]
            with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout
                port = server.stdout.readline().strip()
                client = [*there, sys.executable, "-c", CLIENT, HOSTS[0], port]
                reached.append(subprocess.run(client, capture_output=True, check=False).returncode == 0)
                server.communicate()
        assert reached == [True, False]
        assert WIRE not in interface_names()
