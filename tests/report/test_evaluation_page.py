"""The page of an evaluation."""

import numpy as np
import pytest

from bench.report.evaluation import EvaluatedModel, render_evaluation
from bench.suite.arms import Arm
from bench.suite.user_variables import UserVariables
from bench.training.evaluate import Evaluation
from bench.training.history import Epoch
from bench.training.model_file import open_model
from bench.worker.messages import EpochReply
from models.weights import checkpoint_path
from models.zoo import CNN_SMALL
from tests.report.pages import read_html, read_markdown


@pytest.fixture(scope="module")
def rendered():
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 10, 200)
    logits = np.eye(10)[truth] * 4 + generator.normal(0, 1.6, (200, 10))
    evaluations = [
        Evaluation(Arm("pytorch", "eager"), logits, truth),
        Evaluation(Arm("ipex", "jit"), logits, truth),
        Evaluation(Arm("itex", "frozen"), None, truth, "not installed"),
    ]
    reply = EpochReply(200, 0.5, 10**9, 8, 1, "d", 7, 0)
    history = [Epoch(number, 0.001, reply, 0.9, 0.4, None, None) for number in (1, 2, 3)]
    model = open_model(checkpoint_path(CNN_SMALL))
    return render_evaluation(EvaluatedModel(model, evaluations, "fashion-mnist", UserVariables(), history))


def test_both_pages_have_the_same_content(rendered) -> None:
    texts, _ = rendered
    assert read_markdown(texts["report.md"]) == read_html(texts["report.html"])
    assert "Not evaluated: itex frozen: not installed" in texts["report.html"]


def test_its_plots_are_files(rendered) -> None:
    _, plots = rendered
    assert set(plots) == {"architecture.svg", "classes.svg", "confusion.svg", "learning-curves.svg", "roc.svg"}
    assert "(n = 200 images)" in plots["confusion.svg"]
    assert plots["roc.svg"].count("AUC 0.") >= 10
    assert "held out" not in plots["learning-curves.svg"]
