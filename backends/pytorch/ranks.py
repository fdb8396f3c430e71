"""Join the processes of a group with PyTorch's own means, as `torchrun` would."""

from __future__ import annotations

import importlib.util
import os
import socket
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from backends.protocol import UnsupportedError

if TYPE_CHECKING:
    from backends.protocol import RankGroup

GLOO, CCL = "gloo", "ccl"
CCL_BINDINGS = "oneccl_bindings_for_pytorch"


@cache
def join(group: RankGroup, transport: str) -> None:
    """Join the group, once per process; returns when all of its ranks have.

    The variables are those that `torchrun` sets. The store is the one that PyTorch would make from them, but it listens
    on the group's interface instead of on all of them.
    """
    from torch import distributed

    host, _, port = group.addresses[0].rpartition(":")
    os.environ.update(
        RANK=str(group.rank),
        LOCAL_RANK=str(group.rank),
        WORLD_SIZE=str(group.size),
        LOCAL_WORLD_SIZE=str(group.size),
        MASTER_ADDR=host,
        MASTER_PORT=port,
        GLOO_SOCKET_IFNAME=group.interface,
        FI_TCP_IFACE=group.interface,
    )
    if transport == CCL:
        # Importing the bindings registers them.
        importlib.import_module(CCL_BINDINGS)
    wait, is_first = timedelta(seconds=group.timeout_s), group.rank == 0
    listener = None
    if is_first:
        # The store closes what it is given.
        with socket.socket(fileno=os.dup(group.listener)) as own:
            own.listen()
            listener = own.detach()
    store = distributed.TCPStore(host, int(port), group.size, is_first, wait, master_listen_fd=listener)
    distributed.init_process_group(transport, store=store, rank=group.rank, world_size=group.size, timeout=wait)


def require_ccl() -> None:
    """Raise UnsupportedError unless the environment has oneCCL's bindings."""
    if importlib.util.find_spec(CCL_BINDINGS) is None:
        raise UnsupportedError(f"{CCL_BINDINGS} is not installed in this environment")
