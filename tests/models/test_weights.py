import numpy as np
import pytest
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import save_file

from models.weights import (
    WeightsError,
    checkpoint_path,
    digest,
    initial_weights,
    load_arrays,
    load_weights,
    save_weights,
)
from models.zoo import CNN_SMALL


def test_the_weights_of_a_seed_never_change() -> None:
    assert digest(initial_weights(CNN_SMALL, 0))[:16] == "723ab896e2e68feb"


def test_seeds_give_different_weights() -> None:
    assert digest(initial_weights(CNN_SMALL, 0)) != digest(initial_weights(CNN_SMALL, 1))


def test_initial_kernels_fill_the_range_of_their_distribution() -> None:
    for initial, bound in (("he", (6 / 1568) ** 0.5), ("pytorch", 1568**-0.5)):
        kernel = initial_weights(CNN_SMALL, 0, initial)["dense1.weight"]
        assert 0.999 * bound < np.abs(kernel).max() <= np.float32(bound)


def test_the_digest_depends_on_values_and_names_but_not_on_their_order(weights) -> None:
    backwards = dict(reversed(weights.items()))
    assert digest(backwards) == digest(weights)
    changed = weights | {"dense2.bias": weights["dense2.bias"] + np.float32(1e-7)}
    assert digest(changed) != digest(weights)


def test_saved_weights_are_read_back_unchanged(tmp_path, weights) -> None:
    save_weights(tmp_path / "w.safetensors", weights, {"note": "a"})
    assert digest(load_weights(tmp_path / "w.safetensors", CNN_SMALL)) == digest(weights)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_in_bf16_are_widened_to_the_same_numbers(tmp_path, weights) -> None:
    file = tmp_path / "weights.safetensors"
    upper = {name: (array.view(np.uint32) >> 16).astype("<u2") for name, array in weights.items()}
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=list(bits.shape), data_ptr=bits.ctypes.data, data_len=bits.nbytes)
        for name, bits in upper.items()
    }
    serialize_file(specs, file)
    loaded = load_weights(file, CNN_SMALL)
    for name, array in weights.items():
        np.testing.assert_array_equal(loaded[name].view(np.uint32), array.view(np.uint32) & 0xFFFF0000)


def test_bf16_beside_another_type_is_refused_with_one_reason(tmp_path) -> None:
    file, bits, numbers = tmp_path / "weights.safetensors", np.zeros(2, "<u2"), np.zeros(2, np.float32)
    specs = {
        name: TensorSpec(dtype=dtype, shape=[2], data_ptr=array.ctypes.data, data_len=array.nbytes)
        for name, dtype, array in (("a", "bfloat16", bits), ("b", "float32", numbers))
    }
    serialize_file(specs, file)
    with pytest.raises(WeightsError, match=rf"^{file}: mixes bf16 with other types \(b\); save all its tensors"):
        load_arrays(file)


def test_a_missing_truncated_or_pickled_file_is_refused(tmp_path, weights) -> None:
    save_weights(tmp_path / "w.safetensors", weights, {})
    content = (tmp_path / "w.safetensors").read_bytes()
    for name, damaged in {"half": content[:1000], "empty": b"", "pickle": b"\x80\x04\x95" + b"x" * 99}.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(WeightsError, match=name):
            load_weights(tmp_path / name, CNN_SMALL)
    with pytest.raises(WeightsError, match="missing"):
        load_weights(tmp_path / "missing", CNN_SMALL)


def test_weights_of_another_network_are_refused_with_the_parameters_that_differ(tmp_path, weights) -> None:
    other = weights | {"dense2.bias": np.zeros(11, np.float32)}
    save_file(other, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit cnn-small.*dense2\.bias"):
        load_weights(tmp_path / "w.safetensors", CNN_SMALL)


def test_the_checkpoint_is_small_and_fits(trained) -> None:
    assert checkpoint_path(CNN_SMALL).stat().st_size < 1_000_000
    assert sum(array.size for array in trained.values()) == CNN_SMALL.parameters


def test_arrays_are_saved_correctly_whatever_their_strides(tmp_path) -> None:
    transposed = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    save_weights(tmp_path / "w.safetensors", {"a": transposed, "b": np.float32(3) * np.ones(())}, {})
    loaded = load_arrays(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(loaded["a"], transposed)
    assert loaded["b"].shape == ()


def test_a_file_without_arrays_can_be_saved_and_read(tmp_path) -> None:
    save_weights(tmp_path / "w.safetensors", {}, {})
    assert load_arrays(tmp_path / "w.safetensors") == {}
