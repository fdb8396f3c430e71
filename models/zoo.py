"""The CNNs that are benchmarked, each defined once."""

from __future__ import annotations

from dataclasses import replace

from models.spec import BatchNorm, Conv2d, Dense, Dropout, Flatten, MaxPool2d, Network, ReLU

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

# The published recipe gives no sizes; we use the layers of cnn-small, with pixels between -1 and 1.
CNN_SAM = replace(
    CNN_SMALL,
    name="cnn-sam",
    summary="the layers of cnn-small, pixels from -1 to 1; the CNN of the recipe `sam`",
    mean=0.5,
    std=0.5,
)

CNN_VGG = Network(
    name="cnn-vgg",
    summary="seven convolutions in three stages, three dense layers; the CNN of the recipe `vgg`",
    layers=(
        *(Conv2d(64), ReLU(), Conv2d(64), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(128), ReLU(), Conv2d(128), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(256), ReLU(), Conv2d(256), ReLU(), Conv2d(256), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Flatten(), Dense(2048), ReLU(), Dropout(0.5), Dense(512), ReLU(), Dense(10)),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

# The published recipe gives no sizes; the widths double from stage to stage, some with batch normalisation.
CNN_BN = Network(
    name="cnn-bn",
    summary="convolutions of 32, 64 and 128, batch normalisation after some layers; the CNN of the recipe `bn`",
    layers=(
        *(Conv2d(32), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(64), ReLU(), MaxPool2d(2), Dropout(0.25)),
        *(Conv2d(128), ReLU(), BatchNorm(), MaxPool2d(2), Dropout(0.25)),
        *(Flatten(), Dense(128), ReLU(), BatchNorm(), Dropout(0.5), Dense(10)),
    ),
    mean=FASHION_MNIST_MEAN,
    std=FASHION_MNIST_STD,
)

NETWORKS = {network.name: network for network in (CNN_SMALL, CNN_SAM, CNN_VGG, CNN_BN)}
