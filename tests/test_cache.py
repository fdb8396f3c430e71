import json
from pathlib import Path

import pytest

from bench import cache


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that fills an entry, and counts its calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "model.bin").write_bytes(b"weights")
        return {"took": len(calls)}

    make.calls = calls
    return make


def test_an_entry_is_made_once(make) -> None:
    first, again = (cache.entry("kind", "digest", make) for _ in range(2))
    assert first == (again[0], {"took": 1}, False)
    assert again[1:] == ({"took": 1}, True)
    assert (first[0] / "model.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("damage", ["change", "remove", "add", "facts"])
def test_a_modified_entry_is_made_again(make, damage) -> None:
    folder, _, _ = cache.entry("kind", "digest", make)
    match damage:
        case "change":
            (folder / "model.bin").write_bytes(b"others")
        case "remove":
            (folder / "model.bin").unlink()
        case "add":
            (folder / "more.bin").write_bytes(b"")
        case "facts":
            (folder / cache.FACTS).write_text(json.dumps([1]))
    _, facts, cached = cache.entry("kind", "digest", make)
    assert (facts, cached) == ({"took": 2}, False)
    assert (folder / "model.bin").read_bytes() == b"weights"


def test_an_entry_whose_making_fails_is_not_kept(make, tmp_path) -> None:
    def fail(folder: Path) -> dict:
        (folder / "half").touch()
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.entry("kind", "digest", fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_digest_of_code_ignores_comments_and_docstrings_only(tmp_path) -> None:
    source = tmp_path / "package" / "module.py"
    source.parent.mkdir()
    source.with_name("__init__.py").touch()

    def digest(text: str) -> str:
        source.write_text(text)
        cache.code_digest.cache_clear()
        return cache.code_digest(str(tmp_path))

    plain = digest("def f():\n    return 1\n")
    assert digest('"""Module."""\n\n# Why.\ndef f():\n    """Function."""\n    return 1  # one\n') == plain
    assert digest("def f():\n    return 2\n") != plain
    assert digest("def f():\n    print('text')\n    return 1\n") != plain
    source.rename(source.with_name("renamed.py"))
    cache.code_digest.cache_clear()
    assert cache.code_digest(str(tmp_path)) != plain


def test_every_part_of_a_key_counts() -> None:
    assert len({cache.key(a=1, b="x"), cache.key(a=2, b="x"), cache.key(a=1, b="y"), cache.key(a=1)}) == 4
    assert cache.key(a=1, b=2) == cache.key(b=2, a=1)


def test_what_a_killed_process_left_half_made_goes_and_what_another_one_makes_stays(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kind = cache.entry("kind", "first", lambda _: {}).folder.parent
    (kind / ".partial-abandoned").mkdir()
    (kind / ".partial-abandoned" / "half").write_text("half")

    def make(partial):
        # As another process might meanwhile.
        cache.entry("kind", "other", lambda _: {})
        assert partial.exists()
        return {}

    cache.entry("kind", "own", make)
    assert {path.name for path in kind.iterdir()} == {"first", "other", "own"}
