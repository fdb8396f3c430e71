"""Models as files of the frameworks: what is written is what they load, and what is read is tensors and no code."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from backends.registry import read_model, write_model
from models.errors import UserError
from models.h5 import read_h5, write_h5
from models.zoo import CNN_BN, CNN_SMALL, NETWORKS
from tests.contract.conftest import OWN_STACK, lively_weights

IS_TORCH, IS_KERAS = OWN_STACK in ("pytorch", "ipex"), OWN_STACK in ("tensorflow", "itex")
torch_only = pytest.mark.skipif(not IS_TORCH, reason="state dicts are PyTorch's")
keras_only = pytest.mark.skipif(not IS_KERAS, reason="reads and writes Keras's files")


class Code:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 3",)


@torch_only
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_survive_a_state_dict(tmp_path, name) -> None:
    weights = lively_weights(NETWORKS[name])
    write_model(OWN_STACK, tmp_path / "w.pth", NETWORKS[name], weights)
    found = read_model(OWN_STACK, tmp_path / "w.pth", NETWORKS[name])
    assert found.keys() == weights.keys()
    assert all(np.array_equal(found[each], weights[each]) for each in weights)


@torch_only
def test_a_state_dict_of_other_names_is_read_in_its_order(tmp_path) -> None:
    import torch

    weights = lively_weights(CNN_SMALL)
    write_model(OWN_STACK, tmp_path / "w.pth", CNN_SMALL, weights)
    ours = torch.load(tmp_path / "w.pth", weights_only=True)
    torch.save({f"net.{index}": tensor for index, tensor in enumerate(ours.values())}, tmp_path / "other.pth")
    found = read_model(OWN_STACK, tmp_path / "other.pth", CNN_SMALL)
    assert all(np.array_equal(found[each], weights[each]) for each in weights)


@torch_only
@pytest.mark.parametrize("content", ["code", "list", "numbers", "truncated", "empty", "of another network"])
def test_what_is_no_state_dict_of_the_network_is_refused_and_never_run(tmp_path, content) -> None:
    import torch

    path, weights = tmp_path / "w.pth", lively_weights(CNN_SMALL)
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
def test_keras_loads_our_weights_and_we_load_those_that_it_saves(tmp_path, name) -> None:
    code = (
        "import sys, numpy as np\n"
        "from backends.tensorflow.layers import build_model\n"
        "from models.weights import initial_weights\n"
        "from models.zoo import NETWORKS\n"
        "model = build_model(NETWORKS[sys.argv[1]], initial_weights(NETWORKS[sys.argv[1]], 9))\n"
        "model.load_weights(sys.argv[2] + '/ours.h5')\n"
        "model.save_weights(sys.argv[2] + '/theirs.h5')\n"
        "model.save(sys.argv[2] + '/whole.h5')\n"
    )
    weights = lively_weights(NETWORKS[name])
    write_h5(tmp_path / "ours.h5", NETWORKS[name], weights)
    call = [sys.executable, "-c", code, name, str(tmp_path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for file in ("theirs.h5", "whole.h5"):
        found = read_h5(tmp_path / file, NETWORKS[name])
        assert all(np.array_equal(found[each], weights[each]) for each in weights), file
