"""The commit is what a file of a copy says, or that of the repository."""

import subprocess

from bench.checkout import commit


def test_a_copy_is_of_the_commit_that_its_file_names(tmp_path) -> None:
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "COMMIT").write_text("c0ffee-dirty\n")
    assert commit(tmp_path / "copy") == "c0ffee-dirty"


def test_in_a_repository_it_is_the_commit_and_whether_there_are_changes(tmp_path) -> None:
    (tmp_path / "file").write_text("first")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert commit(tmp_path) == head
    (tmp_path / "file").write_text("changed")
    assert commit(tmp_path) == f"{head}-dirty"


def test_elsewhere_it_is_unknown(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit(tmp_path) is None
