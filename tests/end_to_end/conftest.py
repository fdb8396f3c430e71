import pytest

from backends.registry import stacks
from bench.suite.environments import MissingEnvironmentError, environment_of


@pytest.fixture(scope="session", autouse=True)
def all_environments() -> None:
    """Fail with one line if an environment is missing."""
    for stack in stacks().values():
        try:
            environment_of(stack)
        except MissingEnvironmentError as error:
            pytest.fail(f"{error} (or run the other tests: tox -e tests)")
