"""What is taken from a file is said, and so is what the file can't say; both leave the network's function as it was."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import oracle
from models.errors import UserError
from models.formats.contents import Contents, Tensor
from models.formats.read import NOTHING_SAID, Assumptions, interpret, parse_assumptions
from models.formats.tensors import read_tensors
from models.weights import save_weights
from models.zoo import CNN_BN, CNN_SMALL
from tests.models.formats.samples import contents, keras_config, keras_layer, random_weights, state_dict, table

WEIGHTS, WEIGHTS_BN = random_weights(CNN_SMALL), random_weights(CNN_BN)
STATE, STATE_BN = state_dict(CNN_SMALL, WEIGHTS), state_dict(CNN_BN, WEIGHTS_BN)
MODULES = {f"features.{name}": array for name, array in STATE_BN.items()}


def numbered(name):
    return f"net.{[placed.name for placed in CNN_BN.place()].index(name)}"


def read(path, file, network=CNN_SMALL, **assumed):
    return interpret(path, file, network, Assumptions(**assumed))


def assert_same(loaded, weights):
    assert list(loaded) == list(weights)
    assert all(np.array_equal(loaded[name], array) for name, array in weights.items())


def assert_same_function(ours, weights, change):
    """Compare our network's logits with those of other layers on the same images."""
    images = np.random.default_rng(1).standard_normal((3, 28, 28, 1)).astype(np.float32)
    theirs = change(images.astype(np.float64), weights)
    assert np.abs(oracle.logits(CNN_BN, ours, images) - theirs).max() <= 1e-4 * np.abs(theirs).max()


def forward(epsilon=1e-3, *, norm_first=False):
    """Return a function that computes cnn-bn's layers with another epsilon, or with the activation last."""

    def run(tensor, weights):
        places = list(CNN_BN.place())
        if norm_first:
            for index, placed in enumerate(places):
                if placed.name.startswith("batchnorm"):
                    places[index - 1 : index + 1] = placed, places[index - 1]
        for placed in places:
            parameters = [weights[name].astype(np.float64) for name in placed.parameter_shapes]
            if placed.name.startswith("batchnorm"):
                tensor = oracle.batch_norm(tensor, *parameters, epsilon)
            else:
                tensor = oracle._apply(placed.layer, tensor, parameters)
        return tensor

    return run


@pytest.mark.parametrize("arrays", [STATE, WEIGHTS], ids=["PyTorch", "Keras"])
def test_layers_without_a_bias_have_one_of_zeros_and_are_named(tmp_path, arrays) -> None:
    without = {name: array for name, array in arrays.items() if name not in ("conv2d1.bias", "conv2d2.bias")}
    reading = read(tmp_path, contents(without))
    zeros = {name: np.zeros_like(WEIGHTS[name]) for name in ("conv2d1.bias", "conv2d2.bias")}
    assert_same(reading.weights, WEIGHTS | zeros)
    assert reading.notes[0].startswith("read 6 tensors")
    assert reading.notes[0].endswith("; without bias: conv2d1, conv2d2")


def test_nested_weights_are_read_and_the_rest_is_named(tmp_path) -> None:
    tables = {"model_state_dict": table(STATE), "ema": table(STATE)}
    file = Contents(tables, others=("epoch", "optimizer_state_dict", "loss"))
    reading = read(tmp_path, file)
    assert_same(reading.weights, WEIGHTS)
    assert reading.notes[0] == (
        "read model_state_dict, 8 tensors, PyTorch layout; left out: ema, epoch, optimizer_state_dict, loss"
    )


def test_of_several_unusual_entries_one_must_be_named(tmp_path) -> None:
    file = Contents({"first": table(STATE), "second": table({name: array * 2 for name, array in STATE.items()})})
    with pytest.raises(UserError, match="first and second fit cnn-small equally well; name one with --key"):
        read(tmp_path, file)
    assert_same(read(tmp_path, file, key="first").weights, WEIGHTS)
    with pytest.raises(UserError, match="has no entry or prefix third; entries: first, second"):
        read(tmp_path, file, key="third")


def test_a_prefix_can_be_named(tmp_path) -> None:
    both = {f"{prefix}.{name}": array * (prefix == "a") for prefix in ("a", "b") for name, array in STATE.items()}
    with pytest.raises(UserError, match=r"a\. and of b\. fit equally well"):
        read(tmp_path, contents(both))
    assert_same(read(tmp_path, contents(both), key="a.").weights, WEIGHTS)


def test_a_file_without_tensors_is_refused_with_the_remedy(tmp_path) -> None:
    with pytest.raises(UserError, match=r"holds an object, app\.Net, not tensors by name.*model\.state_dict\(\)"):
        read(tmp_path, Contents({}, opaque=("app.Net", "torch.nn.modules.conv.Conv2d")))
    with pytest.raises(UserError, match=r"holds no tensors by name.*model\.state_dict\(\)"):
        read(tmp_path, Contents({}))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floating_point_types_are_read_as_fp32_and_named(tmp_path, dtype) -> None:
    reading = read(tmp_path, contents({name: array.astype(dtype) for name, array in STATE.items()}))
    expected = {name: array.astype(dtype).astype(np.float32) for name, array in WEIGHTS.items()}
    assert_same(reading.weights, expected)
    assert reading.notes[0] == f"read 8 tensors in fp{dtype[-2:]}, read as fp32, PyTorch layout"


@pytest.mark.parametrize(("dtype", "name"), [("int8", "int8"), ("complex64", "complex64"), ("bool", "bool")])
def test_types_that_are_no_weights_are_refused_with_names_and_count(tmp_path, dtype, name) -> None:
    state = {key: array.astype(dtype) for key, array in STATE.items()}
    with pytest.raises(UserError, match=rf"conv2d1\.weight and 7 more tensors are of type {name}; allowed: fp32, bf16"):
        read(tmp_path, contents(state))
    with pytest.raises(UserError, match=rf"dense1\.bias is of type {name}"):
        read(tmp_path, contents(STATE | {"dense1.bias": state["dense1.bias"]}))


def test_tensors_without_plain_numbers_are_refused(tmp_path) -> None:
    tensors = table(STATE) | {"dense2.bias": Tensor("fp32", (10,), lambda: np.ones(10), "is sparse")}
    with pytest.raises(UserError, match=r"dense2\.bias is sparse"):
        read(tmp_path, Contents({"": tensors}))


@pytest.mark.parametrize(("value", "what"), [
    (np.nan, "not finite"), (np.inf, "not finite"), (1e39, "larger than fp32 can hold")
])  # fmt: skip
def test_numbers_that_are_not_finite_are_refused_with_tensor_and_count(tmp_path, value, what) -> None:
    kernel = STATE["conv2d2.weight"].astype(np.float64)
    kernel[1, 2, 0, :2] = value
    with pytest.raises(UserError, match=rf"conv2d2\.weight has 2 of 4,608 numbers that are {what}"):
        read(tmp_path, contents(STATE | {"conv2d2.weight": kernel}))


def test_a_negative_variance_is_refused(tmp_path) -> None:
    swapped = STATE_BN | {"batchnorm2.running_var": -STATE_BN["batchnorm2.running_var"]}
    with pytest.raises(UserError, match=r"batchnorm2\.running_var has negative numbers, so it is no variance"):
        read(tmp_path, contents(swapped), CNN_BN)


def test_what_a_file_can_not_say_is_said(tmp_path) -> None:
    _, *notes = read(tmp_path, contents(STATE_BN), CNN_BN).notes
    assert notes[0] == (
        "not in the file, so assumed: flattened channels-first (--layout), pixels standardised with 0.286,0.353 "
        "(--pixels), batch-norm epsilon 0.001 where PyTorch's default is 1e-05 (--bn-epsilon), batch norm "
        "after-activation (--norm)"
    )
    settings = {"bn_epsilon": 1e-5, "layout": "channels-first", "pixels": (0.0, 1.0), "norm": "after-activation"}
    _, *notes = read(tmp_path, contents(STATE_BN), CNN_BN, **settings).notes
    assert len(notes) == 1
    assert notes[0].startswith("as you say: flattened channels-first (--layout), pixels standardised with 0,1 ")


def test_names_of_pytorch_that_are_not_ours_mean_pytorchs_epsilon(tmp_path) -> None:
    foreign = state_dict(CNN_BN, WEIGHTS_BN, numbered)
    reading = read(tmp_path, contents(foreign), CNN_BN)
    assert "batch-norm epsilon 1e-05 (--bn-epsilon)" in reading.notes[1]
    assert_same_function(reading.weights, WEIGHTS_BN, forward(1e-5))
    assert_same(read(tmp_path, contents(foreign), CNN_BN, bn_epsilon=1e-3).weights, WEIGHTS_BN)


def test_another_epsilon_is_made_up_for_by_the_scales(tmp_path) -> None:
    reading = read(tmp_path, contents(STATE_BN), CNN_BN, bn_epsilon=0.3)
    assert_same_function(reading.weights, WEIGHTS_BN, forward(0.3))
    changed = {name for name, array in reading.weights.items() if not np.array_equal(array, WEIGHTS_BN[name])}
    assert changed == {"batchnorm1.scale", "batchnorm2.scale", "batchnorm3.scale"}


def test_batch_normalisation_before_the_activation_becomes_part_of_the_layer_before_it(tmp_path) -> None:
    reading = read(tmp_path, contents(STATE_BN), CNN_BN, norm="before-activation")
    assert_same_function(reading.weights, WEIGHTS_BN, forward(norm_first=True))


@pytest.mark.parametrize(("layout", "arrays"), [("channels-first", STATE), ("channels-last", WEIGHTS)])
def test_the_order_of_channels_follows_from_the_layout_of_kernels_and_can_be_set(tmp_path, layout, arrays) -> None:
    assert_same(read(tmp_path, contents(arrays)).weights, WEIGHTS)
    assert_same(read(tmp_path, contents(arrays), layout=layout).weights, WEIGHTS)
    other = {"channels-first": "channels-last", "channels-last": "channels-first"}[layout]
    assert not np.array_equal(
        read(tmp_path, contents(arrays), layout=other).weights["dense1.weight"], WEIGHTS["dense1.weight"]
    )


@pytest.mark.parametrize(("formats", "layout"), [
    (("channels_last", "channels_last"), "channels-last"),
    # A Flatten that knows the order moves the channels to the end.
    (("channels_first", "channels_first"), "channels-last"),
    (("channels_first", "channels_last"), "channels-first"),
])  # fmt: skip
def test_the_order_of_channels_is_what_keras_describes(tmp_path, formats, layout) -> None:
    data_format, flatten = formats
    file = contents(WEIGHTS, config=keras_config(CNN_SMALL, data_format=data_format, flatten=flatten))
    reading = read(tmp_path, file)
    assert f"the file states: flattened {layout} (--layout)" in reading.notes
    assert_same(reading.weights, read(tmp_path, contents(WEIGHTS), layout=layout).weights)


def test_a_flatten_that_contradicts_the_other_layers_is_refused(tmp_path) -> None:
    config = keras_config(CNN_SMALL, data_format="channels_last", flatten="channels_first")
    with pytest.raises(UserError, match="its layers disagree about the order of channels"):
        read(tmp_path, contents(WEIGHTS, config=config))


def test_epsilon_and_place_of_batch_normalisation_are_what_keras_describes(tmp_path) -> None:
    config = keras_config(CNN_BN, epsilon=0.02, norm_first=True)
    reading = read(tmp_path, contents(WEIGHTS_BN, config=config), CNN_BN)
    assert_same_function(reading.weights, WEIGHTS_BN, forward(0.02, norm_first=True))
    assert "batch-norm epsilon 0.02 (--bn-epsilon), batch norm before-activation (--norm)" in reading.notes[1]


def test_an_epsilon_that_was_rounded_to_fp32_is_the_same(tmp_path) -> None:
    file = contents(WEIGHTS_BN, config=keras_config(CNN_BN, epsilon=float(np.float32(1e-3))))
    assert_same(read(tmp_path, file, CNN_BN, bn_epsilon=1e-3).weights, WEIGHTS_BN)


def test_a_first_layer_that_scales_pixels_is_what_keras_describes(tmp_path) -> None:
    config = keras_config(CNN_SMALL, first=[keras_layer("Rescaling", scale=1 / 127.5, offset=-1.0)])
    reading = read(tmp_path, contents(WEIGHTS, config=config))
    assert reading.pixels == pytest.approx((0.5, 0.5))
    assert "pixels standardised with 0.5,0.5 (--pixels)" in reading.notes[1]


@pytest.mark.parametrize(("option", "value", "states"), [
    ("bn_epsilon", 1e-5, "batch-norm epsilon 0.001"),
    ("layout", "channels-first", "flattened channels-last"),
    ("norm", "before-activation", "batch norm after-activation"),
])  # fmt: skip
def test_an_option_that_contradicts_the_file_is_refused(tmp_path, option, value, states) -> None:
    file = contents(WEIGHTS_BN, config=keras_config(CNN_BN))
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')} contradicts the file, which states {states}"):
        read(tmp_path, file, CNN_BN, **{option: value})


@pytest.mark.parametrize(("before", "after", "reason"), [
    ('"padding": "same"', '"padding": "valid"', "convolution of 3x3 to 16, padding valid where"),
    ('"strides": [1, 1]', '"strides": [2, 2]', r"convolution of 3x3 to 16, strides \(2, 2\) where"),
    ('"linear"', '"tanh"', "with tanh where cnn-small has ReLU"),
    ('"Flatten"', '"GlobalAveragePooling2D"', "with GlobalAveragePooling2D where cnn-small has flatten"),
    ('"ReLU"', '"LeakyReLU"', "with LeakyReLU where cnn-small has ReLU"),
    ('"ReLU"', '"Lambda"', "with Lambda where cnn-small has ReLU"),
])  # fmt: skip
def test_a_description_of_other_layers_is_refused_although_the_shapes_fit(tmp_path, before, after, reason) -> None:
    config = keras_config(CNN_SMALL).replace(before, after)
    with pytest.raises(UserError, match=reason):
        read(tmp_path, contents(WEIGHTS, config=config))


def test_other_ways_to_write_the_same_layers_are_read(tmp_path) -> None:
    config = keras_config(CNN_SMALL)
    relu = '{"class_name": "ReLU", "config": {"max_value": null, "negative_slope": 0.0, "threshold": 0.0}}'
    activation = '{"class_name": "Activation", "config": {"activation": "relu"}}'
    assert relu in config
    last = '{"class_name": "Activation", "config": {"activation": "softmax"}}]}}'
    assert_same(read(tmp_path, contents(WEIGHTS, config=config.replace(relu, activation))).weights, WEIGHTS)
    assert_same(read(tmp_path, contents(WEIGHTS, config=config.removesuffix("]}}") + f", {last}")).weights, WEIGHTS)


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["config", "layers", "class_name", "kernel_size", "activation"]), inner), max_leaves=8
))  # fmt: skip
def test_any_other_description_is_refused(tmp_path_factory, content) -> None:
    import json

    with pytest.raises(UserError, match=r"description of the network|does not fit cnn-small"):
        read(tmp_path_factory.getbasetemp(), contents(WEIGHTS, config=json.dumps(content)))


@pytest.mark.parametrize(("options", "reason"), [
    ({"bn_epsilon": 0.0}, r"--bn-epsilon 0: allowed: a number above 0 and below 1"),
    ({"bn_epsilon": float("nan")}, "--bn-epsilon nan"),
    ({"layout": "NCHW"}, "unknown layout 'NCHW'; allowed: channels-first, channels-last"),
    ({"norm": "first"}, "unknown norm 'first'; allowed: after-activation, before-activation"),
    ({"pixels": "0.5"}, "--pixels 0.5: allowed: MEAN,DEVIATION"),
    ({"pixels": "0,0"}, "--pixels 0,0: allowed"),
    ({"pixels": "nan,1"}, "--pixels nan,1: allowed"),
])  # fmt: skip
def test_impossible_options_are_refused(options, reason) -> None:
    given_options = dict.fromkeys(("key", "bn_epsilon", "layout", "pixels", "norm")) | options
    with pytest.raises(UserError, match=reason):
        parse_assumptions(**given_options)


def test_options_are_parsed() -> None:
    assert parse_assumptions("", None, None, None, None) == NOTHING_SAID
    assert parse_assumptions("a", 1e-5, None, "0,1", None) == Assumptions(key="a", bn_epsilon=1e-5, pixels=(0, 1))


def safetensors_file(path, dtype, shape, data):
    header = f'{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[0,{len(data)}]}}}}'.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_bf16_safetensors_are_read_as_fp32(tmp_path) -> None:
    numbers = np.array([1.0, -2.5, 3e38], np.float32)
    safetensors_file(tmp_path / "w", "BF16", [3], (numbers.view(np.uint32) >> 16).astype("<u2").tobytes())
    tensor = read_tensors(tmp_path / "w").tables[""]["a"]
    assert (tensor.dtype, tensor.shape) == ("bf16", (3,))
    assert tensor.read() == pytest.approx(numbers, rel=1 / 128)


@pytest.mark.parametrize(("dtype", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("I8", 1), ("BOOL", 1)])
def test_safetensors_of_types_without_a_scale_are_refused_by_name(tmp_path, dtype, size) -> None:
    safetensors_file(tmp_path / "w", dtype, [10], b"\0" * 10 * size)
    held = read_tensors(tmp_path / "w").tables[""]["a"]
    with pytest.raises(UserError, match=r"dense2\.bias is of type (F8_E4M3|F8_E5M2|int8|bool); allowed"):
        interpret(tmp_path, Contents({"": table(STATE) | {"dense2.bias": held}}), CNN_SMALL, NOTHING_SAID)


def test_safetensors_with_shapes_that_no_array_has_are_refused(tmp_path) -> None:
    safetensors_file(tmp_path / "w", "F32", [0, 2**62], b"")
    with pytest.raises(UserError, match="does not fit cnn-small"):
        interpret(tmp_path / "w", read_tensors(tmp_path / "w"), CNN_SMALL, NOTHING_SAID)


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_damaged_safetensors_are_refused(tmp_path_factory, content, cut) -> None:
    folder = tmp_path_factory.mktemp("tensors")
    save_weights(folder / "w", WEIGHTS, {})
    (folder / "t").write_bytes((folder / "w").read_bytes()[:cut] + content)
    with pytest.raises(UserError, match=r"t: can't be read as safetensors|does not fit"):
        interpret(folder / "t", read_tensors(folder / "t"), CNN_SMALL, NOTHING_SAID)
