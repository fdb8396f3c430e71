"""The addresses that a process communicates at with the other ranks of its group."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "lo"
# Linux: netdevice(7); the address follows the name, and the family and port of a sockaddr_in.
SIOCGIFADDR, NAME_BYTES = 0x8915, 16
INTERNET = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class Reserved:
    """A socket that is bound to a free port of an interface's address, and does not listen.

    Meanwhile the kernel gives the port to nobody who asks for any.
    """

    interface: str
    listener: socket.socket

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()
        return f"{host}:{port}"


def interface_names() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


def address_of(interface: str) -> str:
    """Return the IPv4 address of an interface; raises UserError if there is none."""
    if interface not in (names := interface_names()):
        raise UserError(f"no network interface {interface!r} here; allowed: {', '.join(names)}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            reply = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack(f"{NAME_BYTES}s24x", interface.encode()))
        except OSError as error:
            raise UserError(f"the network interface {interface!r} has no IPv4 address; give it one") from error
    return socket.inet_ntoa(reply[NAME_BYTES + 4 : NAME_BYTES + 8])


def reserve_address(interface: str) -> Reserved:
    """Reserve a free port on the address of an interface; raises UserError if it has none."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # The framework may bind a socket of its own to this port: two that both allow it, while none of them listens.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((address_of(interface), 0))
    return Reserved(interface, listener)


def keep_to_loopback(interface: str) -> None:
    """Let this process accept connections of this machine only, if it is to communicate on the loopback interface.

    TensorFlow's server listens on all interfaces, and has no option for it.
    """
    if interface == LOOPBACK:
        for listener in _listeners():
            if not ip_address(listener.getsockname()[0]).is_loopback:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, LOOPBACK.encode())


def listening_addresses() -> tuple[str, ...]:
    """Return ADDRESS%INTERFACE of each socket of this process that accepts connections; any interface is `*`."""
    found = set()
    for listener in _listeners():
        host = ip_address(listener.getsockname()[0])
        device = listener.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, NAME_BYTES).rstrip(b"\0").decode()
        found.add(f"{host}%{device or (LOOPBACK if host.is_loopback else '*')}")
    return tuple(sorted(found))


def _listeners() -> Iterator[socket.socket]:
    """Yield the process's listening internet sockets, each under a file descriptor of its own."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - it lists itself as well, and pathlib asks for its state
        # A file may have been closed meanwhile.
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    if one.family in INTERNET and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        yield one
