"""The CNNs that are benchmarked, each defined once."""

from __future__ import annotations

from models.spec import Conv2d, Dense, Flatten, MaxPool2d, Network, ReLU

# Mean and standard deviation of the 60,000 training images, pixels scaled to [0, 1].
FASHION_MNIST_MEAN, FASHION_MNIST_STD = 0.2860, 0.3530

CNN_SMALL = Network(
    name="cnn-small",
    summary="two convolutions, two dense layers; the CNN of the recipes `small` and `adam`",
    layers=(
        Conv2d(16),
        ReLU(),
        MaxPool2d(2),
        Conv2d(32),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dense(128),
        ReLU(),
        Dense(10),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

NETWORKS = {network.name: network for network in (CNN_SMALL,)}
