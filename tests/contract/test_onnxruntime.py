"""ONNX Runtime's own files and threads: what they contain, and the network that they belong to."""

import shutil
from pathlib import Path

import pytest

from bench.engine.workers import WorkerError
from bench.machine.facts import usable_cores
from bench.worker.messages import Prove
from models.zoo import CNN_SMALL
from tests.contract.conftest import HERE, TIMEOUT_S, RunningVariant, write_in_own_process

pytestmark = pytest.mark.skipif(all(stack.name != "onnxruntime" for stack in HERE), reason="another environment")


@pytest.fixture
def start(tmp_path, caches):
    """Return a function that starts the stack at a precision; all are stopped at the end."""
    started = []

    def start(precision="fp32"):
        started.append(RunningVariant(tmp_path, caches, "onnxruntime", "session", precision))
        return started[-1]

    yield start
    for running in started:
        running.worker.stop()


def test_a_model_of_another_network_is_refused(start) -> None:
    running = start()
    running.converted("cnn-small")
    shutil.copytree(running.folder / "converted-cnn-small", running.folder / "converted-cnn-bn")
    with pytest.raises(WorkerError, match="the ONNX model is of another network"):
        running.build("cnn-bn", 1)


def test_the_error_says_that_the_model_is_missing(start) -> None:
    running = start()
    (running.folder / "converted-cnn-small").mkdir()
    with pytest.raises(WorkerError, match="no ONNX model to start from"):
        running.build("cnn-small", 1)


@pytest.mark.parametrize("model", ["cnn-small", "cnn-bn"])
def test_an_int8_model_multiplies_in_int8_only_and_normalises_in_fp32(start, model) -> None:
    running = start("int8")
    proof = running.worker.request(Prove(running.build(model, 64)), TIMEOUT_S)
    kernels = {tuple(kernel.split()) for kernel in proof.kernels}
    provider = "CPUExecutionProvider"
    assert {("QLinearConv", provider, "int8"), ("QGemm", provider, "int8")} <= kernels
    assert {kernel[2] for kernel in kernels if kernel[0] == "BatchNormalization"} <= {"fp32"}


def test_an_int8_model_has_a_quarter_of_the_size(start) -> None:
    file = Path(start("int8").converted("cnn-small")) / "model.onnx"
    assert CNN_SMALL.parameters < file.stat().st_size < 1.2 * CNN_SMALL.parameters


def test_threads_are_bound_to_cores_and_read_back(start) -> None:
    running = start()
    proof = running.worker.request(Prove(running.build("cnn-small", 1)), TIMEOUT_S)
    assert proof.threads == usable_cores()
    assert proof.versions["session.intra_op.spin_duration_us"] == "1000"
    places = proof.versions.get("session.intra_op_thread_affinities", "").split(";")
    assert len(list(filter(None, places))) == usable_cores() - 1


def test_a_written_model_is_the_converted_one(start, tmp_path) -> None:
    running = start()
    converted = Path(running.converted("cnn-small"))
    write_in_own_process("onnxruntime", tmp_path / "cnn-small.safetensors", tmp_path / "w.onnx")
    assert (tmp_path / "w.onnx").read_bytes() == (converted / "model.onnx").read_bytes()


def test_no_identity_of_the_user_is_stored_for_telemetry(start, tmp_path) -> None:
    """ONNX Runtime makes a file with an identity, and sends its events later, unless it is switched off."""
    home = tmp_path / "home"
    home.mkdir()
    running = start()
    running.variables |= {"HOME": str(home)}
    running.worker.stop()
    running.worker = running.start()
    running.predict(running.build("cnn-small", 1))
    assert [path for path in home.rglob("*") if "Microsoft" in str(path)] == []
