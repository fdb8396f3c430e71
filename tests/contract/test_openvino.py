"""OpenVINO's own files: their contents, and the network that they belong to."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.engine.workers import WorkerError
from bench.machine.facts import usable_cores
from bench.worker.messages import Prove, RunSlice
from models.zoo import CNN_SMALL
from tests.contract.conftest import HERE, TIMEOUT_S, RunningVariant, write_in_own_process

pytestmark = pytest.mark.skipif(all(stack.name != "openvino" for stack in HERE), reason="another environment")


@pytest.fixture
def start(tmp_path, caches):
    """Return a function that starts a variant; all are stopped at the end."""
    started = []

    def start(variant, precision="fp32"):
        started.append(RunningVariant(tmp_path, caches, "openvino", variant, precision))
        return started[-1]

    yield start
    for running in started:
        running.worker.stop()


@pytest.mark.parametrize("name", ["latency", "tf"])
def test_weights_are_saved_uncompressed(start, name) -> None:
    """By default half of the bits would be lost."""
    running = start(name)
    running.build("cnn-small", 1)
    content = (running.folder / "converted-cnn-small" / "model.bin").read_bytes()
    assert 4 * CNN_SMALL.parameters <= len(content) < 4.1 * CNN_SMALL.parameters
    bias = running.weights["cnn-small"]["dense1.bias"].astype("<f4").tobytes()
    assert bias in content


def test_an_ir_of_another_network_is_refused(start) -> None:
    running = start("latency")
    running.converted("cnn-small")
    shutil.copytree(running.folder / "converted-cnn-small", running.folder / "converted-cnn-bn")
    with pytest.raises(WorkerError, match="the IR is of another network"):
        running.build("cnn-bn", 1)


def test_the_error_says_that_the_ir_is_missing(start) -> None:
    running = start("latency")
    (running.folder / "converted-cnn-small").mkdir()
    with pytest.raises(WorkerError, match="no IR to start from"):
        running.build("cnn-small", 1)


def test_an_int8_ir_has_a_quarter_of_the_size_and_runs_in_int8(start) -> None:
    running = start("latency", "int8")
    proof = running.worker.request(Prove(running.build("cnn-small", 64)), TIMEOUT_S)
    assert [kernel for kernel in proof.kernels if kernel.startswith("Convolution") and kernel.endswith("u8")]
    assert (running.folder / "converted-cnn-small" / "model.bin").stat().st_size < 1.2 * CNN_SMALL.parameters


def test_a_queue_has_as_many_streams_as_it_is_asked_for_and_shares_all_threads(start) -> None:
    running = start("throughput")
    for streams in {1, usable_cores()}:
        case = running.build("cnn-small", 4, streams)
        proof = running.worker.request(Prove(case), TIMEOUT_S)
        assert (proof.versions["NUM_STREAMS"], proof.threads) == (str(streams), usable_cores())
        timing = running.worker.request(
            RunSlice(case, budget_ns=1_000_000, lead_in=2 * streams, asynchronous=True), TIMEOUT_S
        )
        assert timing.samples_ns


def test_both_conversions_compute_the_same_logits(start, tmp_path) -> None:
    pytorch = start("latency")
    logits = pytorch.predict(pytorch.build("cnn-small", 64))
    shutil.rmtree(tmp_path / "converted-cnn-small")
    tensorflow = start("tf")
    assert np.abs(logits - tensorflow.predict(tensorflow.build("cnn-small", 64))).max() < 1e-4


def test_a_written_ir_is_the_converted_one(start, tmp_path) -> None:
    running = start("latency")
    converted = Path(running.converted("cnn-small"))
    write_in_own_process("openvino", tmp_path / "cnn-small.safetensors", tmp_path / "w.xml")
    assert (tmp_path / "w.bin").read_bytes() == (converted / "model.bin").read_bytes()
    assert CNN_SMALL.digest in (tmp_path / "w.xml").read_text()
