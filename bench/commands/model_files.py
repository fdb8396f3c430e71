"""`bench evaluate`, `bench export` and `bench import`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.commands.folders import shared_folder
from bench.console import WARNING, say
from bench.journal import refuse_links, write_pages
from bench.machine.facts import instruction_sets
from bench.processes.lock import only_command_in, only_measurement
from bench.report.document import table
from bench.report.run_report import say_variables
from bench.report.writers import print_table
from bench.suite.arms import Arm
from bench.suite.environments import find_stack
from bench.suite.plan import obstacle
from bench.training.evaluate import default_arms, evaluate_arms
from bench.training.history import TRAINING_FILE, read_history, read_training
from bench.training.model_file import export_model, import_model, open_model
from models.data import SYNTHETIC_WARNING
from models.errors import UserError, unknown
from models.idx import DataError
from models.zoo import NETWORKS

if TYPE_CHECKING:
    from rich.console import Console

    from bench.suite.user_variables import UserVariables
    from bench.training.evaluate import Evaluation
    from bench.training.model_file import ModelFile
    from models.data import DataSet
    from models.formats.read import Assumptions

# The oracle needs no framework, and is slow.
ORACLE, ORACLE_IMAGES = Arm("oracle", "numpy"), 1000
# Any training that ran to its end is above.
LOW_ACCURACY = 0.8


@dataclass(frozen=True)
class EvaluateOptions:
    """What to evaluate; no arms mean every installed stack. `model` is the model's name if the file has none."""

    path: Path
    threads: int
    variables: UserVariables
    model: str | None = None
    arms: tuple[Arm, ...] = ()
    data: str = "auto"
    results: Path = Path("results")
    name: str | None = None


def evaluate_model(options: EvaluateOptions, console: Console) -> int:
    """Evaluate a model on several arms; return 1 if an arm failed."""
    from bench.report.evaluation import macro_columns
    from models.data import load

    path, variables = options.path, options.variables
    for arm in options.arms:
        if reason := obstacle(arm, {}, instruction_sets(), variables.given):
            raise UserError(f"--arms {arm.id}: {reason}")
    model = open_model(path, options.model)
    say_notes(model, console)
    chosen = list(options.arms) or default_arms()
    if not chosen:
        raise UserError("no stack is installed to evaluate on; make an environment: tox -e vanilla --notest")
    data = load(options.data)
    say_variables(variables, console)
    name = options.name or f"evaluate-{path.stem}"
    folder = path if path.is_dir() else shared_folder(options.results, name, TRAINING_FILE)
    with only_measurement(folder, shared=True), only_command_in(folder):
        evaluations = report_model(model, chosen, data, options.threads, folder, variables)
    if data.name == "synthetic":
        say(console, SYNTHETIC_WARNING, "bold yellow")
    evaluated = [evaluation for evaluation in evaluations if evaluation.logits is not None]
    print_table(table(evaluated, macro_columns(variables)), console)
    say_failures(evaluations, console)
    say(console, f"report: {folder / 'report.html'}")
    return 0 if len(evaluated) == len(evaluations) else 1


def say_failures(evaluations: list[Evaluation], console: Console) -> None:
    for evaluation in evaluations:
        if evaluation.logits is None:
            say(console, f"{evaluation.arm.label} is not evaluated: {evaluation.reason}", WARNING)


def inference_arm(text: str) -> Arm:
    """Parse STACK/VARIANT[/PRECISION]; raises UserError unless it can be evaluated."""
    stack_name, _, rest = text.partition("/")
    variant, _, precision = rest.partition("/")
    stack = find_stack(stack_name)
    allowed = {name: declared for name, declared in stack.variants.items() if not declared.trains}
    allowed = {name: declared for name, declared in allowed.items() if not declared.asynchronous}
    if variant not in allowed:
        raise unknown(f"variant of {stack.name}", variant, allowed)
    if (precision or "fp32") not in allowed[variant].precisions:
        raise unknown(f"precision of {stack.name}/{variant}", precision, allowed[variant].precisions)
    return Arm(stack.name, variant, precision or "fp32")


def report_model(
    model: ModelFile, arms: list[Arm], data: DataSet, threads: int, folder: Path, variables: UserVariables
) -> list[Evaluation]:
    """Evaluate a model, and write the report into a folder, with the learning curves if it is that of a training."""
    from bench.report import evaluation as report

    refuse_links(folder)
    # Damaged files are an error before the evaluation, which takes minutes.
    record = read_training(folder) if (folder / TRAINING_FILE).exists() else None
    history = read_history(folder)
    evaluations = evaluate_arms(model, arms, data, threads, variables.given)
    evaluated = report.EvaluatedModel(model, evaluations, data.name, variables, history, record)
    write_pages(folder, *report.render_evaluation(evaluated))
    return evaluations


def export_file(path: Path, output: Path, model_name: str | None, console: Console) -> None:
    model = open_model(path, model_name)
    say_notes(model, console)
    export_model(model, output)
    say(console, f"{output}: written")


def import_file(
    file: Path, output: Path, model_name: str, assumed: Assumptions, source: str, threads: int, console: Console
) -> None:
    """Import a model, and show its accuracy, by which a wrong assumption shows."""
    if model_name not in NETWORKS:
        raise unknown("model", model_name, NETWORKS)
    data = _test_data(source)
    model = import_model(file, NETWORKS[model_name], output, assumed)
    say_notes(model, console)
    accuracy = data if isinstance(data, str) else accuracy_of(model, data, threads)
    say(console, f"{output}: written; {accuracy}")


def say_notes(model: ModelFile, console: Console) -> None:
    for note in model.notes:
        say(console, f"{model.path}: {note}")


def _test_data(source: str) -> DataSet | str:
    """Return the data to find an accuracy with, or why there is none; raises DataError if the user has named it."""
    from models.data import load

    try:
        # Accuracies on synthetic images say nothing, unless the user asks for them.
        return load("fashion-mnist" if source == "auto" else source)
    except DataError as error:
        if source != "auto":
            raise
        return f"no accuracy: {error}"


def accuracy_of(model: ModelFile, data: DataSet, threads: int) -> str:
    """Return the accuracy on the test images, by the first installed stack or by the NumPy oracle, or why not."""
    arm, *_ = [*default_arms(), ORACLE]
    if arm == ORACLE:
        data = replace(data, test_images=data.test_images[:ORACLE_IMAGES], test_labels=data.test_labels[:ORACLE_IMAGES])
    (evaluation,) = evaluate_arms(model, [arm], data, threads, {})
    if evaluation.logits is None:
        return f"no accuracy: {arm.label} failed ({evaluation.reason})"
    images = f"the first {len(evaluation.truth):,} test images" if arm == ORACLE else "the test images"
    doubt = "; so low a value may mean that something was assumed wrongly" if evaluation.accuracy < LOW_ACCURACY else ""
    return f"accuracy {evaluation.accuracy:.2%} on {images} of {data.name} ({arm.label}){doubt}"
