"""Two network namespaces, joined by a pair of virtual interfaces, as two machines would be by a wire."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

WIRE = "wire0"
HOSTS = ("10.213.77.1", "10.213.77.2")


@contextmanager
def two_namespaces() -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the commands that start a process in each of them; skips the test where they can't be made."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    names = [f"bench-{os.getpid()}-{end}" for end in "ab"]
    try:
        for name in names:
            if (made := ip("netns", "add", name)).returncode:
                pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
        ends = [f"v{os.getpid()}{end}" for end in "ab"]
        if (made := ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])).returncode:
            pytest.skip(f"no virtual interface can be made here: {made.stderr.strip()}")
        for name, end, host in zip(names, ends, HOSTS, strict=True):
            ip("link", "set", end, "netns", name)
            for command in (
                ("link", "set", end, "name", WIRE), ("address", "add", f"{host}/24", "dev", WIRE),
                ("link", "set", WIRE, "up"), ("link", "set", "lo", "up"),
            ):  # fmt: skip
                assert ip("-n", name, *command).returncode == 0
        yield tuple(("ip", "netns", "exec", name) for name in names)
    finally:
        for name in names:
            ip("netns", "delete", name)


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
