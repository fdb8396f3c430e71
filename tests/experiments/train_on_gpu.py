"""Train a recipe that uses Adam with PyTorch on a GPU: the batches, schedule and stopping rule of `bench train`.

Usage: train_on_gpu.py RECIPE SEED FOLDER

The weights with the lowest validation loss are saved as bf16, in RECIPE-seedSEED.safetensors, with a line per epoch
in a .jsonl file beside it. The project measures CPUs only, but a large CNN trains for hours on a few cores.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from backends.pytorch.layers import build_module, neutral_weights
from models import data
from models.data import split, standardise
from models.feed import Feed
from models.recipes.learning_rate import learning_rates
from models.recipes.parse import load_recipe
from models.weights import initial_weights
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from models.feed import Batch
    from models.recipes import Recipe

PROCESSES, EVALUATION_BATCH, WARM_UP_STEPS = 5, 500, 3


def epoch_arrays(feed: Feed, epoch: int) -> Batch:
    """Return all batches of an epoch, one after another: images of shape (count, 1, height, width), and labels."""
    order = feed.order(epoch)
    batches = [feed.batch(order, epoch, index) for index in range(feed.batches)]
    images, labels = zip(*batches, strict=True)
    return np.concatenate(images).transpose(0, 3, 1, 2), np.concatenate(labels)


class Trainer:
    """A module on the GPU, whose whole training step is one graph of kernels."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        torch.manual_seed(seed)
        self.network, self.recipe = NETWORKS[recipe.network], recipe
        module = build_module(self.network, initial_weights(self.network, seed, recipe.initial))
        self.module = module.cuda().to(memory_format=torch.channels_last).train()
        self.rate = torch.tensor(recipe.learning_rate, device="cuda")
        self.optimizer = torch.optim.Adam(
            self.module.parameters(), lr=self.rate, weight_decay=recipe.weight_decay, fused=True, capturable=True
        )
        self.loss_sum = torch.zeros((), device="cuda")
        shape = (recipe.batch_size, 1, 28, 28)
        self.images = torch.zeros(shape, device="cuda").to(memory_format=torch.channels_last)
        self.labels = torch.zeros(recipe.batch_size, dtype=torch.int64, device="cuda")
        self.graph = self._capture()

    def step(self, images: Any, labels: Any) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            logits = self.module(images)
        smoothing = self.recipe.label_smoothing
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
        loss.backward()
        self.optimizer.step()
        self.loss_sum += loss.detach() * len(labels)

    def _capture(self) -> Any:
        """Record a step as a graph; warming up changes weights and optimiser, which start anew afterwards."""
        before = {name: tensor.clone() for name, tensor in self.module.state_dict().items()}
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                self.step(self.images, self.labels)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(self.images, self.labels)
        self.module.load_state_dict(before)
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()
        return graph

    def epoch(self, images: Any, labels: Any, learning_rate: float) -> float:
        """Train on all images, in batches, and return the mean loss."""
        self.rate.fill_(learning_rate)
        self.loss_sum.zero_()
        size = self.recipe.batch_size
        for start in range(0, len(labels), size):
            batch, target = images[start : start + size], labels[start : start + size]
            if len(target) < size:
                self.step(batch.contiguous(memory_format=torch.channels_last), target)
            else:
                self.images.copy_(batch)
                self.labels.copy_(target)
                self.graph.replay()
        return float(self.loss_sum) / len(labels)

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]:
        """Return accuracy and mean cross-entropy; images are standardised, (count, 1, height, width)."""
        self.module.eval()
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            logits = torch.cat([self.module(part) for part in images.split(EVALUATION_BATCH)]).float()
        self.module.train()
        accuracy = (logits.argmax(1) == labels).double().mean()
        return float(accuracy), float(torch.nn.functional.cross_entropy(logits, labels))

    def save(self, path: Path, metadata: dict[str, str]) -> None:
        # A copy, because the graph keeps the addresses of the module's own tensors.
        weights = neutral_weights(self.network, copy.deepcopy(self.module).cpu())
        tensors = {name: torch.from_numpy(array).contiguous().bfloat16() for name, array in weights.items()}
        save_file(tensors, path, metadata)


def main(recipe_name: str, seed: int, folder: Path) -> None:
    recipe = load_recipe(recipe_name)
    data_set = data.load("auto")
    splits = split(data_set, recipe.validation)
    trainer, network = Trainer(recipe, seed), NETWORKS[recipe.network]

    def on_gpu(images: Any, labels: Any) -> tuple[Any, Any]:
        return torch.from_numpy(images).cuda(), torch.from_numpy(labels.astype(np.int64)).cuda()

    held_out, test = (
        on_gpu(standardise(network, images).transpose(0, 3, 1, 2), labels)
        for images, labels in (splits.validation, splits.test)
    )
    images, labels = splits.train
    feed = Feed(network, images, labels.astype(np.int64), recipe.batch_size, recipe.augmentation, seed, 1)
    losses: list[float] = []
    name = f"{recipe.name}-seed{seed}"
    with ProcessPoolExecutor(PROCESSES) as pool, (folder / f"{name}.jsonl").open("w") as log:
        futures = [pool.submit(partial(epoch_arrays, feed), number + 1) for number in range(PROCESSES)]
        for number in range(recipe.epochs):
            batches = on_gpu(*futures.pop(0).result())
            if number + PROCESSES < recipe.epochs:
                futures.append(pool.submit(partial(epoch_arrays, feed), number + PROCESSES + 1))
            rate = learning_rates(recipe, recipe.epochs, feed.batches, number, losses)[0]
            loss = trainer.epoch(*batches, rate)
            (validation_accuracy, validation_loss), (accuracy, _) = trainer.evaluate(*held_out), trainer.evaluate(*test)
            losses.append(validation_loss)
            line = {"epoch": number + 1, "rate": rate, "loss": loss, "validation": validation_accuracy}
            line |= {"validation_loss": validation_loss, "test": accuracy}
            print(json.dumps(line), file=log, flush=True)
            best = losses.index(min(losses))
            if best == number:
                about = {"recipe": recipe.name, "network": network.name, "spec": network.digest, "seed": seed}
                about |= {
                    "stack": f"PyTorch {torch.__version__} on {torch.cuda.get_device_name()}",
                    "precision": "bf16",
                }
                about |= {"data": data_set.name, "data_digest": data_set.digest, "epoch": number + 1, "loss": loss}
                about |= {"validation_accuracy": validation_accuracy, "test_accuracy": accuracy}
                trainer.save(folder / f"{name}.safetensors", {key: str(value) for key, value in about.items()})
            if math.isnan(loss) or (recipe.patience and number - best >= recipe.patience):
                break
        pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
