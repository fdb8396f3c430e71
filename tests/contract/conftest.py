"""Open the backends of the environment that these tests run in."""

import os

import pytest

from backends.protocol import open_backend, stacks
from bench.machine import usable_cores
from models.zoo import CNN_SMALL

HERE = [stack for stack in stacks().values() if stack.environment == os.environ.get("TOX_ENV_NAME")]
VARIANTS = [(stack.name, variant) for stack in HERE for variant in stack.variants]


def pytest_generate_tests(metafunc):
    """Run a test once for each stack, or each variant of each stack, of this environment."""
    if "session" in metafunc.fixturenames:
        cases = [(*variant, batch_size) for variant in VARIANTS for batch_size in (1, 64)]
        metafunc.parametrize("session", cases, indirect=True, ids=lambda case: "-".join(map(str, case)), scope="module")
    elif "stack" in metafunc.fixturenames:
        metafunc.parametrize("stack", [stack.name for stack in HERE])


@pytest.fixture(scope="module")
def session(request, trained):
    """Return a session of a variant at a batch size, with the checkpoint's weights."""
    stack, variant, batch_size = request.param
    backend = open_backend(stack, usable_cores())
    built = backend.inference(CNN_SMALL, trained, variant, "fp32", batch_size)
    built.batch_size = batch_size
    return built
