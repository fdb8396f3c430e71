"""Every parser of files of strangers, with small real files to begin from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from rich.console import Console

from bench.analysis.run import Run
from bench.analysis.speedups import speedups
from bench.commands.folders import refusing_damage
from bench.exports.frames import load_frames
from bench.journal import JOURNAL, broken_link
from bench.records import Slice
from bench.report.evaluation import EvaluatedModel, render_evaluation
from bench.report.run_report import write_report
from bench.run_info import RUN
from bench.suite.parse import SUITES, load_suite
from bench.suite.user_variables import UserVariables
from bench.training.history import HISTORY_FILE, TRAINING_FILE, read_history, read_training, write_history
from bench.training.history import write_training as store_training
from bench.training.model_file import ModelFile
from bench.withdrawal import WITHDRAWAL, Withdrawal, read_withdrawal, write_withdrawal
from bench.worker import inference
from bench.worker.messages import ReadModel
from models import data
from models.formats.keras import write_keras
from models.formats.read import NOTHING_SAID
from models.idx import read_idx
from models.recipes.parse import RECIPES, load_recipe
from models.spec import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU
from models.weights import initial_weights, load_arrays, load_weights, read_metadata, save_weights, standardised_as_in
from models.zoo import NETWORKS, read_networks
from tests.analysis.recorded_run import inference_run, training_run
from tests.hostile.mutations import (
    archive,
    compressed,
    damaged_bytes,
    damaged_text,
    hdf5,
    header,
    json_lines,
    json_text,
)
from tests.models.formats.samples import keras_config, write_numbered
from tests.models.test_data import idx
from tests.training.test_history import RECORD, history

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Mutation = Callable[[bytes, random.Random, list[bytes]], bytes]

TINY = Network(
    "cnn-tiny",
    "a network whose files are small",
    (Conv2d(2), ReLU(), MaxPool2d(4), Flatten(), Dense(10)),
)
NETWORK_FILE = """\
name = "cnn-mine"
summary = "of a stranger"
mean = 0.5
std = 0.25
layers = [
    { kind = "conv2d", filters = 4 },
    { kind = "relu" },
    { kind = "maxpool2d", size = 4 },
    { kind = "batchnorm" },
    { kind = "dropout", rate = 0.5 },
    { kind = "flatten" },
    { kind = "dense", units = 10 },
]
"""
SILENT = Console(file=io.StringIO())


@dataclass(frozen=True)
class Target:
    """A parser: `make` writes its files into a folder and returns those to damage; `read` reads the folder.

    What a parser that is `contained` does to its worker harms nobody: there a crash, or memory that is refused, becomes
    one line of the command.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]
    contained: bool = False


def _run(folder: Path) -> list[Path]:
    builder = inference_run(folder / "run")
    # A run of three blocks is read in a few milliseconds.
    builder.records = [record for record in builder.records if getattr(record, "block", 0) in (0, 1, 2, None)]
    builder.records = [record for record in builder.records if not isinstance(record, Slice) or record.round == 0]
    return [builder.write() / JOURNAL, training_run(folder / "training").write() / JOURNAL]


def _descriptions(folder: Path) -> list[Path]:
    return [path.parent / RUN for path in _run(folder)]


def _read_run(folder: Path) -> None:
    with refusing_damage(folder):
        run = Run(folder)
        speedups(run)
    broken_link(folder)


def _report(folder: Path) -> None:
    with refusing_damage(folder):
        write_report(folder, SILENT)
    load_frames(folder)


def _withdrawals(folder: Path) -> list[Path]:
    write_withdrawal(folder, Withdrawal("2026-01-01", "a mistake"))
    return [folder / WITHDRAWAL]


def _copies(sources: list[Path], folder: Path) -> list[Path]:
    copies = [folder / source.name for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        copy.write_bytes(source.read_bytes())
    return copies


def _networks(folder: Path) -> list[Path]:
    save_weights(folder / "cnn-mine.safetensors", {"a": np.ones(3, np.float32)}, {})
    (folder / "mine.toml").write_text(NETWORK_FILE)
    (folder / "other.toml").write_text(
        NETWORK_FILE.replace("mine", "other").replace("summary", 'weights = "cnn-mine.safetensors"\nsummary')
    )
    return [folder / "mine.toml", folder / "other.toml"]


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _safetensors(folder: Path) -> list[Path]:
    weights = initial_weights(TINY, 1)
    save_weights(folder / "a.safetensors", weights, {"network": TINY.name, "pixels": "0.5,0.25"})
    save_weights(folder / "b.safetensors", {name: array.astype(np.float16) for name, array in weights.items()}, {})
    return [folder / "a.safetensors", folder / "b.safetensors"]


def _read_safetensors(path: Path) -> None:
    read_metadata(path)
    load_arrays(path)
    load_weights(path, standardised_as_in(path, TINY))


def _hdf5(folder: Path) -> list[Path]:
    weights = initial_weights(TINY, 1)
    write_keras(folder / "a.h5", TINY, weights)
    write_keras(folder / "b.weights.h5", TINY, weights)
    return [folder / "a.h5", folder / "b.weights.h5"]


def _keras(folder: Path) -> list[Path]:
    write_numbered(folder / "model.weights.h5", TINY, initial_weights(TINY, 1))
    with zipfile.ZipFile(folder / "a.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        file.writestr("config.json", keras_config(TINY))
        file.write(folder / "model.weights.h5", "model.weights.h5")
    return [folder / "a.keras"]


def _pytorch(folder: Path) -> list[Path]:
    import torch

    from backends.pytorch.files import write_model

    write_model(folder / "a.pth", TINY, initial_weights(TINY, 1))
    state = torch.load(folder / "a.pth", weights_only=True)
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}}, folder / "b.pt")
    torch.save(state, folder / "c.pth", _use_new_zipfile_serialization=False)
    return [folder / "a.pth", folder / "b.pt", folder / "c.pth"]


def _in_worker(stack: str | None) -> Callable[[Path], object]:
    """Return what a worker does with a file, except that it limits its memory: the fuzzer's process has a limit."""

    def read(path: Path) -> object:
        request = ReadModel(stack, TINY.name, str(path.with_name("out.safetensors")), str(path), NOTHING_SAID)
        with (
            mock.patch.dict(NETWORKS, {TINY.name: TINY}),
            mock.patch.object(inference, "limit_memory", return_value=None),
        ):
            return inference.read_model_file(request)

    return read


def _idx(folder: Path) -> list[Path]:
    images = np.arange(6 * 28 * 28, dtype=np.uint8).reshape(6, 28, 28)
    (folder / "a.gz").write_bytes(gzip.compress(idx(images), mtime=0))
    (folder / "b.gz").write_bytes(gzip.compress(idx(images[:5]), mtime=0))
    return [folder / "a.gz", folder / "b.gz"]


def _data(folder: Path) -> list[Path]:
    """Write four files of six images."""
    for name in data.SHA256:
        shape = (6, 28, 28) if "images" in name else (6,)
        (folder / name).write_bytes(gzip.compress(idx(np.full(shape, 7, np.uint8)), mtime=0))
    return [folder / name for name in data.SHA256]


@contextmanager
def _small_official_files() -> Iterator[None]:
    shapes = {name: (6, 28, 28) if "images" in name else (6,) for name in data.SHA256}
    digests = {
        name: hashlib.sha256(gzip.compress(idx(np.full(shape, 7, np.uint8)), mtime=0)).hexdigest()
        for name, shape in shapes.items()
    }
    with mock.patch.object(data, "SHAPES", shapes), mock.patch.object(data, "SHA256", digests):
        yield


def _read_data(folder: Path) -> None:
    with _small_official_files():
        data.load(str(folder))


def _training(folder: Path) -> list[Path]:
    store_training(folder, RECORD)
    write_history(folder, history(3.0, 1.0, None))
    return [folder / TRAINING_FILE, folder / HISTORY_FILE]


def _read_training(folder: Path) -> None:
    record, epochs = read_training(folder), read_history(folder)
    model = ModelFile(folder / "model.safetensors", TINY, {}, {})
    render_evaluation(EvaluatedModel(model, [], "synthetic", UserVariables({}, {}, ()), epochs, record))


def _either(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return (json_lines if b'"kind"' in content[:20] else json_text)(content, rng, others)


JSON = (json_text, json_text, damaged_bytes)
TOML = (damaged_text, damaged_text, damaged_bytes)
# By name; each reads the damaged file, or the folder that it is in.
TARGETS = {
    "journal": Target(_run, lambda path: _read_run(path.parent), (json_lines, json_lines, damaged_bytes)),
    "run.json": Target(_descriptions, lambda path: _read_run(path.parent), JSON),
    "report": Target(
        lambda folder: _run(folder) + _descriptions(folder),
        lambda path: _report(path.parent),
        (_either,),
    ),
    "withdrawal": Target(_withdrawals, lambda path: read_withdrawal(path.parent), JSON),
    "suite": Target(
        lambda folder: _copies(sorted(SUITES.glob("*.toml")), folder), lambda path: load_suite(str(path)), TOML
    ),
    "recipe": Target(
        lambda folder: _copies(sorted(RECIPES.glob("*.toml")), folder), lambda path: load_recipe(str(path)), TOML
    ),
    "network": Target(_networks, lambda path: read_networks(path.parent), TOML),
    "safetensors": Target(_safetensors, _read_safetensors, (header, damaged_bytes)),
    "safetensors of others": Target(_safetensors, _in_worker(None), (header, damaged_bytes), contained=True),
    "HDF5": Target(_hdf5, _in_worker(None), (hdf5, damaged_bytes), contained=True),
    "Keras archive": Target(_keras, _in_worker(None), (archive, archive, damaged_bytes), contained=True),
    "IDX": Target(_idx, lambda path: read_idx(path, (6, 28, 28)), (compressed, damaged_bytes)),
    "data folder": Target(_data, lambda path: _read_data(path.parent), (compressed, damaged_bytes)),
    "training": Target(_training, lambda path: _read_training(path.parent), JSON),
    "PyTorch": Target(_pytorch, _in_worker("pytorch"), (archive, archive, damaged_bytes), contained=True),
}
