"""Compare the time of our epochs with that of the usual training loops, alternating epoch by epoch in one process.

`tox -e benchmark` runs it for PyTorch (DataLoader and torchvision's transforms) and TensorFlow (model.fit on tf.data).
"""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import TrainingSpec
from backends.registry import open_training
from bench.clock import now_ns
from bench.machine.facts import usable_cores
from bench.worker.timing import TimedEpoch
from models import data
from models.feed import Feed
from models.recipes import Augmentation, Recipe
from models.weights import initial_weights
from models.zoo import CNN_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.data import DataSet

RECIPE = Recipe("benchmark", "", "cnn-small", 1, 64, "adam", 1e-3)
ROUNDS = 5


def ours(stack: str, data_set: DataSet) -> Callable[[int], None]:
    spec = TrainingSpec(CNN_SMALL, initial_weights(CNN_SMALL, 0), "train", "fp32", RECIPE, 0)
    training, labels = open_training(stack, usable_cores(), spec), data_set.train_labels.astype(np.int64)
    feed = Feed(CNN_SMALL, data_set.train_images, labels, RECIPE.batch_size, Augmentation(), 0, usable_cores())

    def epoch(number: int) -> None:
        TimedEpoch(training.step, feed.epoch(number)).train([RECIPE.learning_rate] * feed.batches)

    return epoch


def usual_pytorch(data_set: DataSet, *, channels_last: bool = False) -> Callable[[int], None]:
    """Return a function that trains an epoch as tutorials do: DataLoader with workers, transforms image by image."""
    import torch
    from PIL import Image
    from torchvision import transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((CNN_SMALL.mean,), (CNN_SMALL.std,))])

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(data_set.train_labels)

        def __getitem__(self, index: int) -> Any:
            image = Image.fromarray(data_set.train_images[index], mode="L")
            return transform(image), int(data_set.train_labels[index])

    from backends.pytorch.layers import build_module

    module = build_module(CNN_SMALL, initial_weights(CNN_SMALL, 0)).train()
    if channels_last:
        module = module.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), lr=RECIPE.learning_rate)
    criterion = torch.nn.CrossEntropyLoss()
    loader = torch.utils.data.DataLoader(Images(), RECIPE.batch_size, shuffle=True, num_workers=usable_cores())

    def epoch(_: int) -> None:
        for images, labels in loader:
            batch = images.to(memory_format=torch.channels_last) if channels_last else images
            optimizer.zero_grad()
            criterion(module(batch), labels).backward()
            optimizer.step()

    return epoch


def usual_tensorflow(data_set: DataSet) -> Callable[[int], None]:
    """Return a function that trains an epoch with model.fit on a cached, shuffled, batched, prefetched pipeline."""
    import tensorflow as tf

    from backends.tensorflow.layers import build_model

    model = build_model(CNN_SMALL, initial_weights(CNN_SMALL, 0))
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf.keras.optimizers.Adam(RECIPE.learning_rate), loss, steps_per_execution=10)
    images, labels = data.standardise(CNN_SMALL, data_set.train_images), data_set.train_labels.astype(np.int64)
    pipeline = tf.data.Dataset.from_tensor_slices((images, labels)).cache().shuffle(len(labels))
    pipeline = pipeline.batch(RECIPE.batch_size).prefetch(tf.data.AUTOTUNE)
    return lambda _: model.fit(pipeline, epochs=1, verbose=0)


def alternate(stack: str, loops: dict[str, Callable[[int], None]]) -> None:
    """Alternate the loops epoch by epoch, the first one as a warm-up, and print times and ratios."""
    times: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(ROUNDS + 1):
        for name, epoch in loops.items():
            begin = now_ns()
            epoch(number)
            times[name].append((now_ns() - begin) / 1e9)
    typical = {name: median(epochs[1:]) for name, epochs in times.items()}
    first, *others = loops
    for name in others:
        ratios = [other / one for one, other in zip(times[first][1:], times[name][1:], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f} in {ROUNDS} rounds"
        line = f"{stack}: {first} {typical[first]:.2f} s, {name} {typical[name]:.2f} s per epoch"
        sys.stdout.write(f"{line}: {median(ratios):.2f}x ({spread})\n")


def main(stack: str) -> None:
    data_set = data.load("auto")
    loops = {"ours": ours(stack, data_set)}
    if stack == "pytorch":
        loops["DataLoader and transforms"] = usual_pytorch(data_set)
        loops["the same, channels_last"] = usual_pytorch(data_set, channels_last=True)
    else:
        loops["model.fit on tf.data"] = usual_tensorflow(data_set)
    alternate(stack, loops)


if __name__ == "__main__":
    main(sys.argv[1])
