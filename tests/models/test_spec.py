import pytest

from models.spec import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU, SpecError
from models.zoo import CNN_BN, CNN_SMALL, CNN_VGG


def test_cnn_small_has_the_published_number_of_parameters() -> None:
    parameters = [layer.parameters for layer in CNN_SMALL.place() if layer.parameters]
    assert parameters == [160, 4_640, 200_832, 1_290]
    assert CNN_SMALL.parameters == 206_922
    assert CNN_SMALL.multiply_adds == 1_218_048


def test_shapes_follow_from_the_layers() -> None:
    shapes = [layer.output_shape for layer in CNN_SMALL.place()]
    assert shapes[2] == (14, 14, 16)
    assert shapes[6] == (1568,)
    assert shapes[-1] == (10,)


def test_layers_are_numbered_by_kind() -> None:
    names = [layer.name for layer in CNN_SMALL.place()]
    assert names == [
        "conv2d1", "relu1", "maxpool2d1", "conv2d2", "relu2", "maxpool2d2", "flatten1", "dense1", "relu3", "dense2",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "layers",
    [(Dense(10),), (Flatten(), Conv2d(3)), (Flatten(), MaxPool2d()), (MaxPool2d(29),)],
    ids=["dense on maps", "conv on a vector", "pool on a vector", "pool larger than its input"],
)
def test_layers_that_do_not_fit_their_input_are_refused(layers: tuple) -> None:
    with pytest.raises(SpecError):
        Network("odd", "", layers).place()


def test_pooling_drops_the_remainder_at_the_border() -> None:
    assert Network("n", "", (MaxPool2d(3),)).place()[0].output_shape == (9, 9, 1)


def test_the_digest_depends_on_the_layers_but_not_on_the_name() -> None:
    layers = (Flatten(), Dense(10), ReLU())
    assert Network("a", "x", layers).digest == Network("b", "y", layers).digest
    assert Network("a", "x", layers).digest != Network("a", "x", (Flatten(), ReLU(), Dense(10))).digest
    assert Network("a", "x", layers).digest != Network("a", "x", layers, mean=0.5).digest


def test_cnn_vgg_has_the_published_number_of_parameters() -> None:
    assert [layer.parameters for layer in CNN_VGG.place() if layer.parameters] == [
        640, 36_928, 256, 73_856, 147_584, 512, 295_168, 590_080, 590_080, 1_024, 4_720_640, 1_049_088, 5_130,
    ]  # fmt: skip
    assert (CNN_VGG.parameters, CNN_VGG.trainable_parameters) == (7_510_986, 7_510_090)


def test_cnn_bn_has_the_documented_widths() -> None:
    assert (CNN_BN.parameters, CNN_BN.trainable_parameters) == (242_698, 242_122)
