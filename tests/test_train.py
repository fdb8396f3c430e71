import pytest

from bench.launch import WorkerError
from bench.train import _finite, learning_rates
from conftest import run_bench
from models.recipes import ADAM, Recipe


def test_a_cosine_falls_from_the_rate_to_zero_over_all_epochs() -> None:
    rates = [rate for epoch in range(3) for rate in learning_rates(ADAM, epoch, 3, 4)]
    assert rates[0] == ADAM.learning_rate
    assert rates[6] == pytest.approx(ADAM.learning_rate / 2)
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 0.05 * ADAM.learning_rate


def test_without_a_cosine_the_rate_is_constant() -> None:
    assert learning_rates(Recipe("r", "cnn-small", 1, 1, 0.1), 0, 1, 3) == [0.1] * 3


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_run_that_diverges_is_stopped(loss) -> None:
    with pytest.raises(WorkerError, match="diverged in epoch 3"):
        _finite(loss, 2)


@pytest.mark.stacks
def test_one_epoch_on_the_real_stack_learns_and_saves(tmp_path) -> None:
    done = run_bench(
        tmp_path, "train", "--recipe", "adam", "--epochs", "1", "--data", "synthetic", "--output", "w.safetensors"
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of 1: loss" in done.stdout
    assert "on synthetic" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
    accuracy = float(done.stdout.split("test accuracy ")[1].split("%")[0])
    assert accuracy > 90
