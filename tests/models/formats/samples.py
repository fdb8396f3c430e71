"""Build, with NumPy and h5py alone, what files of other tools hold."""

import json

import h5py
import numpy as np

from models.formats.contents import Contents, Tensor, type_name
from models.formats.layouts import to_pytorch
from models.spec import BatchNorm
from models.weights import initial_weights
from models.zoo import CNN_BN

PYTORCH_NAMES = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}


def random_weights(network=CNN_BN):
    """Return weights in which every number differs from the others."""
    random, weights = np.random.default_rng(3), initial_weights(network, seed=3)
    for name, array in weights.items():
        if array.ndim == 1:
            weights[name] = random.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return weights


def state_dict(network, weights, name_of=lambda name: name):
    """Return weights in PyTorch's names and layout, with the counters of batches."""
    state = {}
    for placed in network.place():
        for name in placed.parameter_shapes:
            role = name.rpartition(".")[2]
            state[f"{name_of(placed.name)}.{PYTORCH_NAMES.get(role, role)}"] = to_pytorch(network, name, weights[name])
        if isinstance(placed.layer, BatchNorm):
            state[f"{name_of(placed.name)}.num_batches_tracked"] = np.array(7)
    return state


def table(arrays):
    return {
        name: Tensor(type_name(array.dtype.name), array.shape, lambda array=array: array)
        for name, array in arrays.items()
    }


def contents(arrays, **more):
    return Contents({"": table(arrays)}, **more)


def keras_layer(kind, **settings):
    return {"class_name": kind, "config": settings}


def keras_config(network, *, data_format="channels_last", flatten=None, epsilon=1e-3, norm_first=False, first=()):
    """Return the description that Keras stores of such a network."""
    layers = [keras_layer("InputLayer", batch_input_shape=[None, 28, 28, 1]), *first]
    for placed in network.place():
        kind, layer = type(placed.layer).__name__, placed.layer
        match kind:
            case "Conv2d":
                layers.append(
                    keras_layer(
                        "Conv2D", filters=layer.filters, kernel_size=[3, 3], strides=[1, 1], padding="same",
                        data_format=data_format, dilation_rate=[1, 1], groups=1, activation="linear", use_bias=True,
                    )
                )  # fmt: skip
            case "ReLU":
                layers.append(keras_layer("ReLU", max_value=None, negative_slope=0.0, threshold=0.0))
            case "BatchNorm":
                at = len(layers) - norm_first
                layers.insert(at, keras_layer("BatchNormalization", epsilon=epsilon, scale=True, center=True))
            case "MaxPool2d":
                sizes = {"pool_size": [layer.size] * 2, "strides": [layer.size] * 2}
                layers.append(keras_layer("MaxPooling2D", padding="valid", data_format=data_format, **sizes))
            case "Dropout":
                layers.append(keras_layer("Dropout", rate=layer.rate))
            case "Flatten":
                layers.append(keras_layer("Flatten", data_format=flatten or data_format))
            case "Dense":
                layers.append(keras_layer("Dense", units=layer.units, activation="linear", use_bias=True))
    return json.dumps({"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}})


def write_numbered(path, network, weights, root="layers"):
    """Write what Keras 2.15 and 3 do as `.weights.h5`: variables have numbers, and layers are sorted by name."""
    names = {"conv2d": "conv2d", "dense": "dense", "batchnorm": "batch_normalization"}
    with h5py.File(path, "w") as file:
        file.create_group("vars")
        for placed in network.place():
            if placed.parameter_shapes:
                kind, number = placed.name.rstrip("0123456789"), int(placed.name[-1])
                group = file.create_group(f"{root}/{names[kind]}{f'_{number - 1}' * (number > 1)}/vars")
                for index, name in enumerate(placed.parameter_shapes):
                    group[str(index)] = weights[name]
        file.create_group("optimizer/vars")["0"] = np.array(3)
