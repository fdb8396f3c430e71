import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from bench.commands.bundle import BundleOptions, make_bundle
from tests.bundle import tiny


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    return tiny.write_index(tmp_path_factory.mktemp("index") / "wheels")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    return tiny.write_project(tmp_path_factory.mktemp("checkout") / "tiny")


@pytest.fixture(scope="session")
def make(index, checkout, tmp_path_factory):
    """Return a function that makes a bundle from tiny wheels and returns what was printed."""
    home = tmp_path_factory.mktemp("home")

    def make(folder, environments=(), torch=None, data="synthetic", **variables) -> str:
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patched:
            for name, value in {**tiny.offline(index), "HOME": str(home), **variables}.items():
                patched.setenv(name, value)
            options = BundleOptions(folder, environments, torch, data, checkout)
            make_bundle(options, Console(file=out, width=200))
        return out.getvalue()

    return make


@pytest.fixture(scope="session")
def made(make, tmp_path_factory):
    """Make a bundle of two environments; return its folder and what was printed."""
    folder = tmp_path_factory.mktemp("made") / "b"
    return SimpleNamespace(folder=folder, out=make(folder))


@pytest.fixture(scope="session")
def made_with_python(make, tmp_path_factory):
    """Make a bundle of one environment and a Python, from a list of the user's."""
    folder = tmp_path_factory.mktemp("python") / "b"
    downloads = folder.with_name("list.json")
    downloads.write_text("{}")
    out = make(folder, ["vanilla"], TINY_PYTHON="yes", UV_PYTHON_DOWNLOADS_JSON_URL=str(downloads))
    return SimpleNamespace(folder=folder, out=out)
