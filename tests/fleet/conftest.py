"""Tests that start real clusters run in their own environment."""

from __future__ import annotations

import os
import stat

import pytest

from conftest import ENVIRONMENT

# What follows the destination is for the node's shell, as OpenSSH's client does it.
CLIENT = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
case "$2" in
  gone) echo "ssh: connect to host gone port 22: No route to host" >&2; exit 255 ;;
  floods) exec yes ;;
  complains) yes | head -c 50000000 >&2; echo "the last line" >&2; exit 255 ;;
  lingers) sleep 5 >&2 & echo '{"refused": "its errors stay open"}'; exit 0 ;;
esac
exec sh -c "$3"
"""


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if item.get_closest_marker("fleet") and ENVIRONMENT != "fleet":
            item.add_marker(pytest.mark.skip(reason="needs the environment fleet (run: tox -e fleet)"))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Install a client that runs on this machine what it is to run on a node."""
    folder = tmp_path / "client"
    folder.mkdir()
    (folder / "ssh").write_text(CLIENT)
    (folder / "ssh").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder
