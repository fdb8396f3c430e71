"""Parameters are found by their shapes, then by names, then by the order of layers, and never guessed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.formats.match import MismatchError, match
from models.zoo import CNN_BN, CNN_SMALL, CNN_VGG, NETWORKS
from tests.models.formats.samples import random_weights, state_dict, table

# A name for each layer of cnn-bn, as people write modules.
NUMBERED = {
    "conv2d1": "conv1", "batchnorm1": "bn1", "conv2d2": "conv2", "conv2d3": "conv3", "batchnorm2": "bn2",
    "dense1": "fc1", "batchnorm3": "bn3", "dense2": "fc2",
}  # fmt: skip
SEQUENTIAL = {name: f"features.{index}" for index, name in enumerate(NUMBERED)}
WORDS = dict(
    zip(NUMBERED, ["stem", "stem_norm", "body", "top", "top_norm", "hidden", "hidden_norm", "head"], strict=True)
)


def matched(state, network=CNN_BN, *, ordered=True):
    """Return the name in the file of each parameter."""
    found = match(table(state), network, ordered=ordered)
    return {name: stored for name, (stored, _) in found.tensors.items()}


def expected(network, names):
    state = state_dict(network, random_weights(network), names.__getitem__)
    layers = [name for name in state if not name.endswith("num_batches_tracked")]
    return dict(zip(network.parameter_shapes, layers, strict=True))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_our_own_names_are_found_in_either_layout_whatever_the_order(network) -> None:
    weights = random_weights(network)
    for arrays, layout in ((state_dict(network, weights), "PyTorch"), (weights, "Keras")):
        found = match(table(dict(sorted(arrays.items(), reverse=True))), network, ordered=True)
        assert (found.exact, found.layout) == (True, layout)
        assert all(stored.rpartition(".")[0] == name.rpartition(".")[0] for name, (stored, _) in found.tensors.items())


@pytest.mark.parametrize("names", [NUMBERED, SEQUENTIAL])
@given(seed=st.integers(0, 2**32 - 1))
def test_numbered_names_are_found_in_any_order(names, seed) -> None:
    state = state_dict(CNN_BN, random_weights(), names.__getitem__)
    keys = np.random.default_rng(seed).permutation(list(state))
    assert matched({str(key): state[key] for key in keys}, ordered=False) == expected(CNN_BN, names)


def test_layers_of_the_same_shapes_with_other_names_are_told_apart_only_by_a_file_in_order() -> None:
    state = state_dict(CNN_BN, random_weights(), WORDS.__getitem__)
    assert matched(state) == expected(CNN_BN, WORDS)
    reason = "top_norm and hidden_norm have the same shapes, and neither numbers nor the order"
    with pytest.raises(MismatchError, match=reason):
        matched(state, ordered=False)
    with pytest.raises(MismatchError, match="hidden_norm and top_norm have the same shapes"):
        matched(dict(sorted(state.items())))


def test_numbers_that_contradict_the_order_of_the_file_are_refused() -> None:
    names = NUMBERED | {"batchnorm2": "bn3", "batchnorm3": "bn2"}
    with pytest.raises(MismatchError, match="bn3 and bn2 have the same shapes, and their numbers contradict the order"):
        matched(state_dict(CNN_BN, random_weights(), names.__getitem__))


def test_numbers_are_compared_as_numbers() -> None:
    layers = [placed.name for placed in CNN_VGG.place() if placed.parameter_shapes]
    names = {name: f"net.{3 * index}" for index, name in enumerate(layers)}
    state = state_dict(CNN_VGG, random_weights(CNN_VGG), names.__getitem__)
    assert matched(dict(sorted(state.items())), CNN_VGG, ordered=False) == expected(CNN_VGG, names)


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "_orig_mod.", "module._orig_mod.", "backbone.layers."])
def test_prefixes_of_wrappers_do_not_matter(prefix) -> None:
    state = {f"{prefix}{name}": array for name, array in state_dict(CNN_SMALL, random_weights(CNN_SMALL)).items()}
    found = match(table(state), CNN_SMALL, ordered=True)
    assert found.exact
    assert found.left_out == ()


def test_tensors_beside_those_of_one_prefix_are_left_out_and_named() -> None:
    state = {f"model.{name}": array for name, array in state_dict(CNN_SMALL, random_weights(CNN_SMALL)).items()}
    state |= {"criterion.weight": np.ones(10), "n_averaged": np.array(3), "model.total_ops": np.array([3.0])}
    found = match(table(state), CNN_SMALL, ordered=True)
    assert len(found.tensors) == 8
    assert set(found.left_out) == {"criterion.weight", "n_averaged", "model.total_ops"}


def test_two_networks_in_one_table_are_refused_until_one_is_named() -> None:
    state = state_dict(CNN_SMALL, random_weights(CNN_SMALL))
    both = {f"{prefix}.{name}": array for prefix in ("student", "teacher") for name, array in state.items()}
    with pytest.raises(MismatchError, match=r"student\. and of teacher\. fit equally well; name one with --key"):
        match(table(both), CNN_SMALL, ordered=True)


@pytest.mark.parametrize(("name", "reason"), [
    ("fc1.weight_g", "weight normalisation.*remove_parametrizations"),
    ("fc1.parametrizations.weight.original0", "weight normalisation.*remove_parametrizations"),
    ("fc1.weight_mask", "pruning.*prune"),
    ("fc1._packed_params._packed_weight", "quantised weights.*; save the network before it is quantised"),
    ("fc1.lora_A.weight", "adapters"),
])  # fmt: skip
def test_weights_that_are_stored_as_something_else_are_refused_with_the_remedy(name, reason) -> None:
    state = state_dict(CNN_SMALL, random_weights(CNN_SMALL)) | {name: np.ones(3)}
    with pytest.raises(MismatchError, match=rf"{name} is of {reason}"):
        match(table(state), CNN_SMALL, ordered=True)


def test_another_network_is_refused_with_the_first_layer_that_differs() -> None:
    state = state_dict(CNN_SMALL, random_weights(CNN_SMALL))
    with pytest.raises(
        MismatchError, match=r"no layer of it has what conv2d1 needs \(bias \(32,\), weight \(32, 1, 3, 3\)\)"
    ):
        match(table(state), CNN_BN, ordered=True)
    del state["dense2.weight"]
    with pytest.raises(MismatchError, match=r"dense2 needs \(bias \(10,\), weight.*; dense2 has bias \(10,\)"):
        match(table(state), CNN_SMALL, ordered=True)
    more = state_dict(CNN_SMALL, random_weights(CNN_SMALL)) | {"conv3.weight": np.ones((3, 3, 3, 3))}
    with pytest.raises(MismatchError, match=r"the network has no such layer as conv3 of conv3\.weight"):
        match(table(more), CNN_SMALL, ordered=True)


names_of_tensors = st.text(st.sampled_from("ab01._/"), max_size=8)
shapes = st.lists(st.sampled_from([1, 3, 10, 16, 128]), max_size=4)


@given(st.dictionaries(names_of_tensors, shapes, max_size=6), st.booleans())
def test_any_other_table_is_refused(shapes_by_name, ordered) -> None:
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes_by_name.items()}
    with pytest.raises(MismatchError):
        match(table(arrays), CNN_SMALL, ordered=ordered)
