"""Folders of strangers: links and devices in them are refused before anything is read or written."""

import io
import os
import shutil

import pytest
from rich.console import Console

from bench.commands.folders import interrupted_run, shared_folder
from bench.commands.stored_run import convert_run, verify_run, withdraw_run
from bench.exports.frames import load_frames
from bench.journal import JOURNAL, RUN, write_pages
from bench.report.run_report import write_report
from bench.training.history import HISTORY_FILE, read_training, write_history, write_training
from models.errors import UserError
from models.files import atomic_write, read_at_most
from models.zoo import read_networks
from tests.analysis.recorded_run import inference_run
from tests.hostile.targets import NETWORK_FILE
from tests.training.test_history import RECORD, history

SILENT = Console(file=io.StringIO())
ENTRIES = (
    JOURNAL,
    RUN,
    "plots",
    "exports",
    "report.html",
    ".report.partial.html",
    ".run.partial.json",
    "logs/bench.log",
)
COMMANDS = {
    "report": lambda folder: write_report(folder, SILENT),
    "verify": lambda folder: verify_run(folder, SILENT),
    "withdraw": lambda folder: withdraw_run(folder, "why", SILENT),
    "convert": lambda folder: convert_run(folder, ["pyperf"], None, SILENT),
    "load": load_frames,
    "resume": lambda folder: interrupted_run(folder.parent, folder.name),
    "pages": lambda folder: write_pages(folder, {"report.html": ""}, {}),
    "evaluate": lambda folder: shared_folder(folder.parent, folder.name),
}


def state(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@pytest.fixture
def outside(tmp_path):
    """Return a folder of the user with a file, and one with a run, to which links lead."""
    folder = tmp_path / "outside"
    inference_run(folder).write()
    (folder / "secret").write_text("the user's")
    return folder


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("entry", ENTRIES)
def test_a_link_in_a_folder_is_refused_and_what_it_leads_to_stays(tmp_path, outside, entry, command) -> None:
    folder = tmp_path / "run"
    if command == "evaluate":
        folder.mkdir()
    else:
        shutil.copytree(outside, folder)
    link = folder / entry
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(
        outside if entry in ("plots", "exports") else outside / (entry if entry in (JOURNAL, RUN) else "secret")
    )
    before = state(outside)
    with pytest.raises(UserError) as error:
        COMMANDS[command](folder)
    assert "\n" not in str(error.value)
    # A folder that holds a run is refused for that.
    assert "is a link or a device" in str(error.value) or "holds something else" in str(error.value)
    assert state(outside) == before


@pytest.mark.parametrize("entry", [RUN, JOURNAL])
def test_a_pipe_does_not_keep_the_reader_waiting(tmp_path, outside, entry) -> None:
    (outside / entry).unlink()
    os.mkfifo(outside / entry)
    with pytest.raises(UserError, match="is a link or a device"):
        write_report(outside, SILENT)


def test_a_link_in_the_folder_of_a_training_is_refused(tmp_path, outside) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    write_training(folder, RECORD)
    write_history(folder, history(1.0))
    (folder / HISTORY_FILE).unlink()
    (folder / HISTORY_FILE).symlink_to(outside / "secret")
    with pytest.raises(UserError, match=r"history\.json: is a link"):
        read_training(folder)


def test_a_file_is_never_written_through_a_link(tmp_path, outside) -> None:
    """The name of the temporary file is known, so a folder of a stranger may have a link there."""
    (tmp_path / ".claims.partial.csv").symlink_to(outside / "secret")
    with atomic_write(tmp_path / "claims.csv") as partial:
        partial.write_text("new")
    assert (outside / "secret").read_text() == "the user's"
    assert (tmp_path / "claims.csv").read_text() == "new"


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "large"])
def test_only_ordinary_files_of_a_bounded_size_are_read(tmp_path, kind) -> None:
    path = tmp_path / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.write_bytes(bytes(11))
    with pytest.raises(OSError, match=r"11 bytes; allowed: 10|not an ordinary file|Is a directory"):
        read_at_most(path, 10)


@pytest.mark.parametrize("weights", ["../secret", "/etc/hostname", "link"])
def test_a_network_names_no_weights_in_other_folders(tmp_path, outside, weights) -> None:
    folder = tmp_path / "networks"
    folder.mkdir()
    (folder / "link").symlink_to(outside / "secret")
    (folder / "mine.toml").write_text(NETWORK_FILE.replace("summary", f'weights = "{weights}"\nsummary'))
    with pytest.raises(UserError, match=r"mine\.toml, line 2: .* is in another folder"):
        read_networks(folder)
