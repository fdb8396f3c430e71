"""The variants of the environment's stack that this process can build."""

import pytest

from backends.registry import stacks
from conftest import OWN_STACK

# Variants that would affect the others in the same process.
ALONE = {("itex", "off"), ("openvino", "default")}
VARIANTS = {
    name: variant
    for name, variant in stacks()[OWN_STACK].variants.items()
    # Settings are environment variables that a process needs from its start.
    if "fp32" in variant.precisions and not (variant.trains or variant.settings or (OWN_STACK, name) in ALONE)
}


def pytest_generate_tests(metafunc):
    if "variant" in metafunc.fixturenames:
        # Compiling takes minutes. Untimed, it would only repeat what tests/contract asserts of the same variants.
        is_timed = metafunc.config.getoption("codspeed", False) or not metafunc.config.option.benchmark_disable
        names = [name for name, variant in VARIANTS.items() if is_timed or not variant.compiles]
        metafunc.parametrize("variant", names, ids=[f"{OWN_STACK}/{name}" for name in names])


def pytest_collection_modifyitems(items):
    """Let xdist keep in one process what imports the framework into it."""
    for item in items:
        if "stack" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("in process"))
