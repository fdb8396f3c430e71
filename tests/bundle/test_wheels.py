"""Wheels are chosen by uv and fetched by pip, each with its SHA-256."""

import sys

import pytest

from bench.bundle import wheels
from bench.bundle.project import requested_environments
from bench.bundle.wheels import (
    BATCH_BYTES,
    Wheel,
    batches,
    download,
    find_uv,
    last_messages,
    missing_wheels,
    requirements,
    wheels_of_environment,
)
from models.errors import UserError
from tests.bundle import tiny


def wheel(name, version="1", size=0, url=None, sha256="0" * 64) -> Wheel:
    return Wheel(name, version, url or f"https://index/{name}-{version}-py3-none-any.whl", sha256, size)


@pytest.fixture
def uv():
    return find_uv(tiny.Path(sys.prefix))


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def resolve(uv, checkout, index, scratch, monkeypatch):
    """Return a function that resolves an environment of the tiny project from the tiny index."""
    for name, value in tiny.offline(index).items():
        monkeypatch.setenv(name, value)

    def resolve(name, torch=None) -> list[Wheel]:
        requested = requested_environments(checkout)[name]
        return wheels_of_environment(uv, checkout, requested, torch, scratch / "pylock.toml")

    return resolve


def test_an_environment_has_its_extra_its_groups_and_what_they_need(resolve) -> None:
    found = {(each.name, each.version) for each in resolve("vanilla")}
    assert found == {("everywhere", "2"), ("torch", "1.0"), ("nvidia-big", "1"), ("checker", "1"), ("shared", "2")}


def test_an_override_of_tox_ini_is_an_override_here(resolve) -> None:
    """Package `stale` needs an older `shared`, which the override does not allow."""
    assert ("shared", "2") in {(each.name, each.version) for each in resolve("ipex")}


def test_each_wheel_has_the_digest_of_its_file_and_its_address(resolve, index) -> None:
    for each in resolve("vanilla"):
        assert each.sha256 == tiny.digest(index / each.file)
        assert each.url.startswith("file://")


def test_a_folder_with_cpu_wheels_of_torch_goes_before_the_index(resolve, tmp_path) -> None:
    tiny.write_wheel(tmp_path, "torch", "1.0+cpu")
    names = {(each.name, each.version) for each in resolve("vanilla", str(tmp_path))}
    assert ("torch", "1.0+cpu") in names
    assert "nvidia-big" not in {name for name, _ in names}


def test_a_torch_index_that_is_no_folder_is_refused(resolve, tmp_path) -> None:
    with pytest.raises(UserError, match=r"--torch-index .*/none: not a folder; allowed: an index"):
        resolve("vanilla", str(tmp_path / "none"))


def test_an_index_of_torch_is_asked_for_torch_alone() -> None:
    assert wheels._links("https://index/cpu/") == "https://index/cpu/torch/"


def test_a_package_without_a_wheel_is_named_in_last_messages(resolve, index, tmp_path, monkeypatch) -> None:
    for path in index.iterdir():
        if not path.name.startswith("nvidia"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("UV_FIND_LINKS", str(tmp_path))
    with pytest.raises(UserError, match=r"environment vanilla: uv finds no set of wheels: .*nvidia-big"):
        resolve("vanilla")


def test_of_several_wheels_the_one_that_fits_best_is_taken() -> None:
    digest = {"hashes": {"sha256": "a" * 64}}
    names = ["a-1-py3-none-any.whl", "a-1-cp311-abi3-manylinux_2_17_x86_64.whl", "a-1-cp311-cp311-win32.whl"]
    package = {"name": "a", "version": "1", "wheels": [{"url": f"https://i/{name}", **digest} for name in names]}
    assert wheels._best(package, "x", tiny.Path()).file == names[1]
    package["wheels"] = package["wheels"][2:]
    with pytest.raises(UserError, match="x: no wheel of a 1 fits this machine; make the bundle on Linux x86_64"):
        wheels._best(package, "x", tiny.Path())


@pytest.mark.parametrize(
    ("url", "sha256"),
    [("https://i/..%2F..%2Fetc.whl", "a" * 64), ("https://i/a-1.tar.gz", "a" * 64), ("https://i/-a.whl", "a" * 64),
     ("https://i/a-1-py3-none-any.whl", ""), ("https://i/a-1-py3-none-any.whl", "b\n--index-url=x")],
)  # fmt: skip
def test_an_index_can_not_choose_where_files_go_or_leave_out_a_digest(url, sha256) -> None:
    package = {"name": "a", "version": "1", "wheels": [{"url": url, "hashes": {"sha256": sha256}}]}
    if "%2F" in url:
        # Only the last part of a path names the file.
        package["wheels"][0]["url"] = url = "https://i/%2e%2e"
    with pytest.raises(UserError, match="without a proper name or SHA-256"):
        wheels._best(package, "x", tiny.Path())


def test_a_batch_has_one_version_of_a_package_and_few_bytes() -> None:
    large = BATCH_BYTES - 1
    listed = [wheel("a"), wheel("b", size=2), wheel("a", "2"), wheel("big", size=large), wheel("c", size=2)]
    names = [[(each.name, each.version) for each in batch] for batch in batches(listed)]
    assert names == [[("a", "1"), ("b", "1")], [("a", "2"), ("big", "1")], [("c", "1")]]


def test_a_wheel_with_another_digest_is_not_kept(uv, index, scratch, tmp_path) -> None:
    changed = wheel("shared", url=(index / "shared-1-py3-none-any.whl").as_uri())
    with pytest.raises(
        UserError, match="shared: what arrived has not the SHA-256 that the index lists; call this again"
    ):
        list(download(uv, [changed], tmp_path / "wheels", scratch))
    assert not list((tmp_path / "wheels").glob("*.whl"))


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """Return a function that puts a script in pip's place."""

    def replace(script) -> None:
        monkeypatch.setattr(wheels, "_pip", lambda _: ["sh", "-c", script, "pip"])

    return replace


def test_the_bytes_of_a_long_download_are_told(pip, uv, scratch, tmp_path) -> None:
    pip("echo Progress 5 of 20; echo Progress 20 of 20")
    assert list(download(uv, [wheel("a")], tmp_path, scratch)) == [5, 20]


def test_a_full_disk_is_told_in_last_messages(pip, uv, scratch, tmp_path) -> None:
    pip("echo 'ERROR: [Errno 28] No space left on device'; exit 1")
    with pytest.raises(
        UserError, match=f"^{tmp_path}: no space left on device; free space there, then call this again$"
    ):
        list(download(uv, [wheel("a")], tmp_path, scratch))


def test_a_new_enough_pip_is_used_and_else_one_that_uv_fetches(monkeypatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: "24.1")
    assert wheels._pip(tiny.Path("/uv")) == [sys.executable, "-m", "pip"]
    monkeypatch.setattr("importlib.metadata.version", lambda _: "23.2")
    assert wheels._pip(tiny.Path("/uv")) == ["/uv", "tool", "run", f"--python={sys.executable}", "pip"]


def test_damaged_and_foreign_files_are_removed_and_fetched_again(index, tmp_path) -> None:
    listed = [wheel(name, sha256=tiny.digest(index / f"{name}-1-py3-none-any.whl")) for name in ("shared", "stale")]
    for name in ("shared", "stale", "checker"):
        (tmp_path / f"{name}-1-py3-none-any.whl").write_bytes((index / f"{name}-1-py3-none-any.whl").read_bytes())
    (tmp_path / "stale-1-py3-none-any.whl").write_bytes(b"half")
    assert missing_wheels(listed, tmp_path) == [listed[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["shared-1-py3-none-any.whl"]


def test_requirements_are_pinned_by_version_and_digest() -> None:
    assert requirements([wheel("b"), wheel("a")]).splitlines() == [
        f"a==1 --hash=sha256:{'0' * 64}",
        f"b==1 --hash=sha256:{'0' * 64}",
    ]


def test_without_uv_one_line_says_how_to_get_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"uv is missing.*python -m pip install uv"):
        find_uv(tmp_path)


def test_the_words_of_a_tool_become_last_messages() -> None:
    assert last_messages("error: a\n  │ cause: b\n") == "error: a cause: b"
    assert last_messages("x" * 1000) == f"... {'x' * 400}"
