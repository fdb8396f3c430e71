"""What only OpenVINO can be asked: what its files hold, and whose they are."""

import shutil

import numpy as np
import pytest

from bench.engine.workers import WorkerError
from models.zoo import CNN_SMALL
from tests.contract.conftest import HERE, Use

pytestmark = pytest.mark.skipif(all(stack.name != "openvino" for stack in HERE), reason="another environment")


@pytest.fixture
def use_of(tmp_path):
    """Return a function that starts a use of OpenVINO; all are stopped at the end."""
    started = []

    def start(variant, precision="fp32"):
        started.append(Use(tmp_path, "openvino", variant, precision))
        return started[-1]

    yield start
    for each in started:
        each.worker.stop()


@pytest.mark.parametrize("variant", ["latency", "tf"])
def test_weights_are_saved_uncompressed(use_of, variant) -> None:
    """A half of them would be gone by default: every weight is there, bit for bit."""
    use = use_of(variant)
    use.build("cnn-small", 1)
    content = (use.folder / "converted-cnn-small" / "model.bin").read_bytes()
    assert 4 * CNN_SMALL.parameters <= len(content) < 4.1 * CNN_SMALL.parameters
    bias = use.weights["cnn-small"]["dense1.bias"].astype("<f4").tobytes()
    assert bias in content


def test_an_ir_of_another_network_is_refused(use_of) -> None:
    use = use_of("latency")
    use.converted("cnn-small")
    shutil.copytree(use.folder / "converted-cnn-small", use.folder / "converted-cnn-bn")
    with pytest.raises(WorkerError, match="the IR is of another network"):
        use.build("cnn-bn", 1)


def test_files_that_are_not_there_are_a_reason(use_of) -> None:
    use = use_of("latency")
    (use.folder / "converted-cnn-small").mkdir()
    with pytest.raises(WorkerError, match="no IR to start from"):
        use.build("cnn-small", 1)


def test_int8_is_a_quarter_of_the_size_and_runs_in_int8(use_of) -> None:
    use = use_of("latency", "int8")
    proof = use.worker.request("prove", 60, case=use.build("cnn-small", 64))
    assert [kernel for kernel in proof["kernels"] if kernel.startswith("Convolution") and kernel.endswith("u8")]
    assert (use.folder / "converted-cnn-small" / "model.bin").stat().st_size < 1.2 * CNN_SMALL.parameters


def test_both_conversions_compute_the_same(use_of, tmp_path) -> None:
    one = use_of("latency")
    found = one.predict(one.build("cnn-small", 64))
    shutil.rmtree(tmp_path / "converted-cnn-small")
    other = use_of("tf")
    assert np.abs(found - other.predict(other.build("cnn-small", 64))).max() < 1e-4
