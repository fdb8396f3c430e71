"""Tests that start real clusters run in their own environment."""

from __future__ import annotations

import pytest

from conftest import ENVIRONMENT


def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    for item in items:
        if item.get_closest_marker("fleet") and ENVIRONMENT != "fleet":
            item.add_marker(pytest.mark.skip(reason="needs the environment fleet (run: tox -e fleet)"))
