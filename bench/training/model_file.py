"""A trained model: its file, the network that it is for, and what it says of itself."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.registry import stacks
from bench.engine.workers import Worker, WorkerError
from bench.suite import variables as settings
from bench.suite.arms import DEFAULT_SETTINGS
from bench.suite.environments import MissingEnvironmentError, environment_of
from bench.training.train import MODEL
from models.errors import UserError, unknown
from models.files import atomic_write
from models.h5 import read_h5, write_h5
from models.weights import Weights, load_arrays, load_weights, read_metadata, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from models.spec import Network

FILE_TIMEOUT_S = 600
PTH, H5, IR, OWN = ".pth", ".h5", ".xml", ".safetensors"
# Formats that only a framework reads and writes, and the stacks whose environment has it.
FRAMEWORK_STACKS = {PTH: ("pytorch", "ipex"), IR: ("openvino",)}


@dataclass(frozen=True)
class Model:
    """A network with its weights; `facts` are what the file says of how it came about."""

    path: Path
    network: Network
    weights: Weights
    facts: dict[str, str]


def open_model(path: Path, name: str = "") -> Model:
    """Read a model's file, or that in the folder of a training; `name` is its network's where the file tells none.

    Raises UserError or WeightsError when it is none, or another network's.
    """
    file = path / MODEL if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: not there; name a .safetensors file, or the folder of a finished training")
    facts = read_metadata(file)
    network = _network(file, name or facts.get("network", ""))
    if facts.get("spec", network.digest) != network.digest:
        raise UserError(f"{file}: was trained as {facts.get('network', 'another network')}, not as {network.name}")
    return Model(file, network, load_weights(file, network), facts)


def _network(file: Path, name: str) -> Network:
    """Return the network by name; of a file that names none, the only one whose parameters it has."""
    if name:
        if name not in NETWORKS:
            raise unknown("model", name, NETWORKS)
        return NETWORKS[name]
    shapes = {each: array.shape for each, array in load_arrays(file).items()}
    fitting = [network for network in NETWORKS.values() if network.parameter_shapes == shapes]
    if len(fitting) != 1:
        named = " or ".join(network.name for network in fitting) or "none of the models"
        raise UserError(f"{file}: may be of {named}; say which with --model: {', '.join(NETWORKS)}")
    return fitting[0]


def export(model: Model, output: Path) -> None:
    """Write a model for other tools: .pth (a state dict), .h5 (Keras's weights), .xml (OpenVINO IR), .safetensors.

    Raises UserError when the format is none of these, or its framework's environment is missing.
    """
    _require_place(output)
    match output.suffix:
        case ".h5":
            write_h5(output, model.network, model.weights)
        case ".safetensors":
            save_weights(output, model.weights, model.facts)
        case ".pth":
            with atomic_write(output) as partial:
                _in_framework("write", model.network, partial, model.path)
        case ".xml":
            _write_ir(model, output)
        case _:
            raise UserError(f"{output}: allowed: files that end in {PTH}, {H5}, {IR} or {OWN}")


def import_model(file: Path, network: Network, output: Path) -> Weights:
    """Read a .pth or .h5 of another tool and write it as ours.

    Raises UserError when it can't be read, holds anything but tensors, or is of another network.
    """
    _require_place(output)
    if output.suffix != OWN:
        raise UserError(f"{output}: allowed: a file that ends in {OWN}")
    if not file.is_file():
        raise UserError(f"{file}: not there")
    if file.suffix == H5:
        weights = read_h5(file, network)
    elif file.suffix == PTH:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            ours = Path(name) / "read.safetensors"
            _in_framework("read", network, file.resolve(), ours)
            weights = load_weights(ours, network)
    else:
        raise UserError(f"{file}: allowed: files that end in {PTH} or {H5}")
    save_weights(output, weights, {"network": network.name, "spec": network.digest, "imported_from": file.name})
    return weights


def _require_place(output: Path) -> None:
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"{output}: allowed: a file in a folder that exists")


def _in_framework(do: str, network: Network, file: Path, ours: Path) -> None:
    """Let a stack's environment read or write its framework's format."""
    _ask(file.suffix, do, {"file": str(file.absolute()), "model": network.name, "weights": str(ours.absolute())})


def _write_ir(model: Model, output: Path) -> None:
    """Convert, and keep both parts of the IR under the name that is wanted."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="bench-", dir=output.parent) as name:
        folder = Path(name)
        np.save(folder / "calibration.npy", np.zeros((1, 28, 28), np.uint8), allow_pickle=False)
        request: dict[str, Any] = {
            "variant": "latency", "conversion": "pytorch", "model": model.network.name, "precision": "fp32",
            "batch_size": 1, "weights": str(model.path.absolute()), "files": "", "folder": str(folder.absolute()),
            "calibration": str((folder / "calibration.npy").absolute()),
        }  # fmt: skip
        _ask(IR, "convert", request)
        for made in folder.glob("*.xml"):
            made.with_suffix(".bin").replace(output.with_suffix(".bin"))
            made.replace(output)


def _ask(suffix: str, do: str, request: dict[str, Any]) -> None:
    """Let a worker of the first environment that is there do it; raises UserError when it can't."""
    missing = []
    for name in FRAMEWORK_STACKS[suffix]:
        try:
            environment = environment_of(stacks()[name])
        except MissingEnvironmentError as error:
            missing.append(str(error))
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            scratch, variables = Path(folder), settings.variables(DEFAULT_SETTINGS, 1)
            try:
                with Worker(environment.python, variables, scratch / "log", scratch) as worker:
                    worker.wait_until_ready().request(do, FILE_TIMEOUT_S, stack=name, **request)
            except WorkerError as error:
                raise UserError(str(error)) from error
        return
    raise UserError(f"{suffix} files need one of these: {'; '.join(missing)}")
