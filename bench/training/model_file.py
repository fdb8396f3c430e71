"""Read and write trained models: our safetensors files, and the file formats of frameworks."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.registry import stacks
from bench.engine.workers import Worker, WorkerError
from bench.suite.arms import DEFAULT_SETTINGS
from bench.suite.environments import MissingEnvironmentError, environment_of
from bench.suite.variables import environment_variables
from bench.training.history import MODEL_FILE
from bench.worker.messages import ReadModel, WriteModel
from models.errors import UserError, unknown
from models.h5 import read_h5, write_h5
from models.weights import Weights, load_arrays, load_weights, read_metadata, save_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backends.protocol import Stack
    from bench.worker.messages import Done, Request
    from models.spec import Network

FILE_TIMEOUT_S = 600
H5, SAFETENSORS = ".h5", ".safetensors"


@dataclass(frozen=True)
class ModelFile:
    """A network with its weights, and the metadata of their file."""

    path: Path
    network: Network
    weights: Weights
    metadata: dict[str, str]


def open_model(path: Path, name: str | None = None) -> ModelFile:
    """Read a model file, or the one in the folder of a training; `name` is the model's if the file has none.

    Raises UserError or WeightsError if it can't be read, or holds another model.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: not there; name a .safetensors file, or the folder of a finished training")
    metadata = read_metadata(file)
    network = _network(file, name or metadata.get("network"))
    if metadata.get("spec", network.digest) != network.digest:
        raise UserError(f"{file}: was trained as {metadata.get('network', 'another network')}, not as {network.name}")
    return ModelFile(file, network, load_weights(file, network), metadata)


def _network(file: Path, name: str | None) -> Network:
    """Return the network by name, else the only one that has the parameters in the file."""
    if name:
        if name not in NETWORKS:
            raise unknown("model", name, NETWORKS)
        return NETWORKS[name]
    shapes = {parameter: array.shape for parameter, array in load_arrays(file).items()}
    fitting = [network for network in NETWORKS.values() if network.parameter_shapes == shapes]
    if len(fitting) != 1:
        names = " or ".join(network.name for network in fitting) or "none of the models"
        raise UserError(f"{file}: may be of {names}; name the model with --model: {', '.join(NETWORKS)}")
    return fitting[0]


def export_model(model: ModelFile, output: Path) -> None:
    """Write a model in the format that the file's suffix names.

    Raises UserError if there is no such format, or no environment whose framework writes it.
    """
    suffixes = {suffix for stack in stacks().values() for suffix in stack.writes} | {H5, SAFETENSORS}
    _require_place(output)
    if output.suffix not in suffixes:
        raise UserError(f"{output}: allowed: files that end in {_either(suffixes)}")
    if output.suffix == H5:
        write_h5(output, model.network, model.weights)
    elif output.suffix == SAFETENSORS:
        save_weights(output, model.weights, model.metadata)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=output.parent) as name:
            file, weights = Path(name).absolute() / output.name, str(model.path.absolute())
            writers = [stack for stack in stacks().values() if output.suffix in stack.writes]
            _ask(writers, file, lambda stack: WriteModel(stack.name, model.network.name, weights, str(file)))
            # Some formats have a second file: the named one appears last, when the other is in place.
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name == output.name):
                path.replace(output.parent / path.name)


def import_model(file: Path, network: Network, output: Path) -> Weights:
    """Read weights in the format that the file's suffix names, and write them as safetensors.

    Raises UserError if the file can't be read, holds anything but tensors, or is of another network.
    """
    suffixes = {suffix for stack in stacks().values() for suffix in stack.reads} | {H5}
    _require_place(output)
    if output.suffix != SAFETENSORS:
        raise UserError(f"{output}: allowed: a file that ends in {SAFETENSORS}")
    if not file.is_file():
        raise UserError(f"{file}: not there")
    if file.suffix not in suffixes:
        raise UserError(f"{file}: allowed: files that end in {_either(suffixes)}")
    if file.suffix == H5:
        weights = read_h5(file, network)
    else:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            ours = Path(name) / "weights.safetensors"
            readers = [stack for stack in stacks().values() if file.suffix in stack.reads]
            _ask(readers, file, lambda stack: ReadModel(stack.name, network.name, str(ours), str(file.resolve())))
            weights = load_weights(ours, network)
    save_weights(output, weights, {"network": network.name, "spec": network.digest, "imported_from": file.name})
    return weights


def _either(suffixes: Iterable[str]) -> str:
    *others, last = sorted(suffixes)
    return f"{', '.join(others)} or {last}"


def _require_place(output: Path) -> None:
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"{output}: allowed: a file in a folder that exists")


def _ask(able: Iterable[Stack], file: Path, request: Callable[[Stack], Request[Done]]) -> None:
    """Send the request to a worker of the first stack that is installed; raises UserError if there is none."""
    missing = []
    for stack in able:
        try:
            environment = environment_of(stack)
        except MissingEnvironmentError as error:
            missing.append(str(error))
            continue
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            scratch, settings = Path(folder), environment_variables(DEFAULT_SETTINGS, 1)
            try:
                with Worker(environment.python, settings, scratch / "log", scratch) as worker:
                    worker.wait_until_ready().request(request(stack), FILE_TIMEOUT_S)
            except WorkerError as error:
                raise UserError(str(error)) from error
        return
    raise UserError(f"{file.suffix} files need one of these: {'; '.join(missing)}")
