"""The variants of the environment's stack that this process can build."""

import pytest

from backends.registry import stacks
from conftest import OWN_STACK

# Variants that would affect the others in the same process.
ALONE = {("itex", "off"), ("openvino", "default")}
VARIANTS = [
    name
    for name, variant in stacks()[OWN_STACK].variants.items()
    # Settings are environment variables that a process needs from its start.
    if "fp32" in variant.precisions and not (variant.trains or variant.settings or (OWN_STACK, name) in ALONE)
]


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        metafunc.parametrize("variant", VARIANTS, ids=[f"{OWN_STACK}/{name}" for name in VARIANTS])


def pytest_collection_modifyitems(items):
    """Let xdist keep in one process what imports the framework into it."""
    for item in items:
        if "stack" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("in process"))
