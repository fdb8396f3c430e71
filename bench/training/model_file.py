"""Read and write trained models: our safetensors files, and the files of other tools."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from backends.registry import stacks
from bench.engine.workers import Worker, WorkerError
from bench.processes.scratch import scratch_folder
from bench.suite.arms import DEFAULT_SETTINGS
from bench.suite.environments import MissingEnvironmentError, environment_of
from bench.suite.variables import environment_variables
from bench.training.history import MODEL_FILE
from bench.worker.messages import ReadModel, WriteModel
from models.errors import UserError, unknown
from models.formats.keras import write_keras
from models.formats.kind import PYTORCH, SAFETENSORS, kind_of
from models.formats.read import NOTHING_SAID
from models.weights import (
    Weights,
    WeightsError,
    load_arrays,
    load_weights,
    pixel_metadata,
    read_metadata,
    save_weights,
    standardised_as_in,
)
from models.zoo import CNN_VGG, NETWORKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from backends.protocol import Stack
    from bench.suite.environments import Environment
    from bench.worker.messages import Request
    from models.formats.read import Assumptions
    from models.spec import Network

R = TypeVar("R")

# A damaged file can let a library run for ever.
READ_TIMEOUT_S, WRITE_TIMEOUT_S = 120, 600
H5, OURS = ".h5", ".safetensors"
MOST_SHOWN = 1000
# The first version without the flaws that are known in its reader of tensors.
SAFE_TORCH = (2, 10)


@dataclass(frozen=True)
class ModelFile:
    """A network with its weights, the metadata of their file, and what was assumed when another tool's was read."""

    path: Path
    network: Network
    weights: Weights
    metadata: dict[str, str]
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write what workers need."""
        save_weights(path, self.weights, pixel_metadata((self.network.mean, self.network.std)))


def open_model(path: Path, name: str | None = None) -> ModelFile:
    """Read a model file of any kind, or the one in the folder of a training; `name` is the model's if it has none.

    Raises UserError or WeightsError if it can't be read, or holds another model.
    """
    file = path / MODEL_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"{file}: not there; name a model file, or the folder of a finished training")
    if kind_of(file, CNN_VGG) != SAFETENSORS:
        return _open_foreign(file, _named(file, name))
    metadata = read_metadata(file)
    network = standardised_as_in(file, _network(file, name or metadata.get("network")))
    if metadata.get("spec", network.digest) != network.digest:
        raise UserError(f"{file}: was trained as {metadata.get('network', 'another network')}, not as {network.name}")
    try:
        weights = load_weights(file, network)
    except WeightsError:
        if path.is_dir():
            raise
        return _open_foreign(file, network)
    for parameter, array in weights.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"{file}: {parameter} has numbers that are not finite; take an earlier checkpoint")
    return ModelFile(file, network, weights, metadata)


def _named(file: Path, name: str | None) -> Network:
    if not name:
        raise UserError(f"{file}: does not name its model; name it with --model: {', '.join(NETWORKS)}")
    if name not in NETWORKS:
        raise unknown("model", name, NETWORKS)
    return NETWORKS[name]


def _network(file: Path, name: str | None) -> Network:
    """Return the network by name, else the only one that has the parameters in the file."""
    if name:
        return _named(file, name)
    try:
        shapes = {parameter: array.shape for parameter, array in load_arrays(file).items()}
    except WeightsError:
        return _named(file, name)
    fitting = [network for network in NETWORKS.values() if network.parameter_shapes == shapes]
    if len(fitting) != 1:
        names = " or ".join(network.name for network in fitting) or "none of the models"
        raise UserError(f"{file}: may be of {names}; name the model with --model: {', '.join(NETWORKS)}")
    return fitting[0]


def _open_foreign(file: Path, network: Network, assumed: Assumptions = NOTHING_SAID) -> ModelFile:
    """Read another tool's file in a worker: one that hangs, crashes or fills the memory does no harm."""
    kind = kind_of(file, network)
    with scratch_folder() as scratch:
        ours, absolute = scratch / "weights.safetensors", str(file.resolve())
        try:
            if kind == PYTORCH:
                # Newer versions have fewer flaws that are known.
                readers = sorted(
                    (stack for stack in stacks().values() if kind in stack.reads),
                    key=lambda stack: stack.upgrade_of is None,
                )
                stack, python = _installed(readers, f"{file}: {kind} files")
                reader: str | None = stack.name
                doubts = _doubts(environment_of(stack))
            else:
                reader, python, doubts = None, Path(sys.executable), ()
            request = ReadModel(reader, network.name, str(ours), absolute, assumed)
            reply = _ask(python, request, READ_TIMEOUT_S)
        except WorkerError as error:
            reason = str(error)
            if not reason.startswith(absolute):
                reason = f"{file}: can't be read ({reason}), so it is damaged; download or save it again"
            raise WeightsError(_printable(reason.replace(absolute, str(file)))) from error
        mean, deviation = reply.pixels
        network = replace(network, mean=mean, std=deviation)
        facts = {"network": network.name, "spec": network.digest, "imported_from": file.name}
        return ModelFile(
            file,
            network,
            load_weights(ours, network),
            facts | pixel_metadata(reply.pixels),
            (*map(_printable, reply.notes), *doubts),
        )


def _doubts(environment: Environment) -> tuple[str, ...]:
    """Return what is known against reading a stranger's file with the PyTorch of an environment."""
    version = environment.packages.get("torch", "")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if not numbers or numbers >= SAFE_TORCH:
        return ()
    safe = ".".join(map(str, SAFE_TORCH))
    note = (
        f"read by PyTorch {version}, whose reader of such files has a known flaw (CVE-2026-24747, mended in {safe}); "
        "for files of strangers, make the environment latest, which is then used: tox -e latest --notest"
    )
    return (note,)


def _printable(text: str) -> str:
    """Return a text, in which a file's names stand, without control characters and at a readable length."""
    return "".join(character if character.isprintable() else "?" for character in text[:MOST_SHOWN])


def export_model(model: ModelFile, output: Path) -> None:
    """Write a model in the format that the file's suffix names.

    Raises UserError if there is no such format, or no environment whose framework writes it.
    """
    suffixes = {suffix for stack in stacks().values() for suffix in stack.writes} | {H5, OURS}
    _require_place(output)
    if output.suffix not in suffixes:
        *others, last = sorted(suffixes)
        raise UserError(f"{output}: allowed: files that end in {', '.join(others)} or {last}")
    if output.suffix == H5:
        write_keras(output, model.network, model.weights)
    elif output.suffix == OURS:
        save_weights(output, model.weights, model.metadata)
    else:
        writers = [stack for stack in stacks().values() if output.suffix in stack.writes]
        stack, python = _installed(writers, f"{output.suffix} files")
        with scratch_folder(output.parent) as folder:
            weights = folder / "weights.safetensors"
            model.save(weights)
            try:
                request = WriteModel(stack.name, model.network.name, str(weights), str(folder / output.name))
                _ask(python, request, WRITE_TIMEOUT_S)
            except WorkerError as error:
                raise UserError(f"{output}: can't be written: {error}") from error
            weights.unlink()
            # Some formats have a second file: the named one appears last, when the other is in place.
            for path in sorted(folder.iterdir(), key=lambda path: path.name == output.name):
                path.replace(output.parent / path.name)


def import_model(file: Path, network: Network, output: Path, assumed: Assumptions = NOTHING_SAID) -> ModelFile:
    """Read weights of any tool, and write them as safetensors.

    Raises UserError if the file can't be read, holds no such weights, or says otherwise than `assumed`.
    """
    _require_place(output)
    if output.suffix != OURS:
        raise UserError(f"{output}: allowed: a file that ends in {OURS}")
    model = _open_foreign(file, network, assumed)
    save_weights(output, model.weights, model.metadata)
    return model


def _require_place(output: Path) -> None:
    if not output.parent.is_dir() or output.is_dir():
        raise UserError(f"{output}: allowed: a file in a folder that exists")


def _installed(able: Iterable[Stack], files: str) -> tuple[Stack, Path]:
    """Return the first stack that is installed, with its interpreter; raises UserError if there is none."""
    missing = []
    for stack in able:
        try:
            return stack, environment_of(stack).python
        except MissingEnvironmentError as error:
            missing.append(str(error))
    raise UserError(f"{files} need one of these: {'; '.join(missing)}")


def _ask(python: Path, request: Request[R], timeout_s: float) -> R:
    """Send a request to a worker; raises WorkerError."""
    settings = environment_variables(DEFAULT_SETTINGS, 1)
    with scratch_folder() as scratch, Worker(python, settings, scratch / "log", scratch) as worker:
        return worker.wait_until_ready().request(request, timeout_s)
