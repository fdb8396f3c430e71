"""Model files of the frameworks: they load what we write, and we read tensors but never run code."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from backends.registry import read_model, stacks, write_model
from conftest import OWN_STACK
from models.errors import UserError
from models.h5 import read_h5, write_h5
from models.zoo import CNN_BN, CNN_SMALL, NETWORKS
from tests.contract.conftest import in_process, nontrivial_weights

READS = stacks()[OWN_STACK].reads
pytestmark = in_process
torch_only = pytest.mark.skipif(".pth" not in READS, reason="state dicts are PyTorch's")
keras_only = pytest.mark.skipif(OWN_STACK not in {"tensorflow", "itex"}, reason="needs Keras")


class Code:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 3",)


@torch_only
@pytest.mark.parametrize("name", NETWORKS)
def test_a_written_state_dict_is_read_back_unchanged(tmp_path, name) -> None:
    weights = nontrivial_weights(NETWORKS[name])
    write_model(OWN_STACK, tmp_path / "w.pth", NETWORKS[name], weights)
    loaded = read_model(OWN_STACK, tmp_path / "w.pth", NETWORKS[name])
    assert loaded.keys() == weights.keys()
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


@torch_only
def test_a_state_dict_with_other_names_is_read_in_its_order(tmp_path) -> None:
    import torch

    weights = nontrivial_weights(CNN_SMALL)
    write_model(OWN_STACK, tmp_path / "w.pth", CNN_SMALL, weights)
    ours = torch.load(tmp_path / "w.pth", weights_only=True)
    torch.save({f"net.{index}": tensor for index, tensor in enumerate(ours.values())}, tmp_path / "other.pth")
    loaded = read_model(OWN_STACK, tmp_path / "other.pth", CNN_SMALL)
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


@torch_only
@pytest.mark.parametrize("content", ["code", "list", "numbers", "truncated", "empty", "of another network"])
def test_any_other_content_is_refused_and_never_executed(tmp_path, content) -> None:
    import torch

    path, weights = tmp_path / "w.pth", nontrivial_weights(CNN_SMALL)
    write_model(OWN_STACK, path, CNN_SMALL, weights)
    match content:
        case "code":
            path.write_bytes(pickle.dumps(Code()))
        case "list":
            torch.save([torch.zeros(3)], path)
        case "numbers":
            torch.save({"a": 3}, path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:1000])
        case "empty":
            path.write_bytes(b"")
    network = CNN_BN if content == "of another network" else CNN_SMALL
    with pytest.raises(UserError) as error:
        read_model(OWN_STACK, path, network)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@keras_only
@pytest.mark.parametrize("name", ["cnn-small", "cnn-bn"])
def test_keras_loads_our_weights_and_we_load_what_it_saves(tmp_path, name) -> None:
    code = (
        "import sys, numpy as np\n"
        "from backends.tensorflow.layers import build_model\n"
        "from models.weights import initial_weights\n"
        "from models.zoo import NETWORKS\n"
        "model = build_model(NETWORKS[sys.argv[1]], initial_weights(NETWORKS[sys.argv[1]], 9))\n"
        "model.load_weights(sys.argv[2] + '/ours.h5')\n"
        "model.save_weights(sys.argv[2] + '/theirs.h5')\n"
        "model.save(sys.argv[2] + '/model.h5')\n"
    )
    weights = nontrivial_weights(NETWORKS[name])
    write_h5(tmp_path / "ours.h5", NETWORKS[name], weights)
    call = [sys.executable, "-c", code, name, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in ("theirs.h5", "model.h5"):
        loaded = read_h5(tmp_path / file, NETWORKS[name])
        assert all(np.array_equal(loaded[parameter], array) for parameter, array in weights.items()), file
