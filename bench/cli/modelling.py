"""Commands about models: `list`, `models`, `train`, `tune`, `evaluate`, `export` and `import`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import complete
from bench.cli.options import (
    RESULTS,
    DataOption,
    EnvOption,
    ModelFileArgument,
    ModelOption,
    Modes,
    ResultsOption,
    ThreadsOption,
    names,
    thread_count,
)
from models.errors import UserError

if TYPE_CHECKING:
    from bench.commands.train import TrainOptions

# Options of `train` and `tune`.
RecipeOption = Annotated[
    str,
    typer.Option(help="The name of a recipe, or the path of a recipe file", autocompletion=complete.recipes),
]
TrainStackOption = Annotated[str, typer.Option("--stack", help="The stack to train on", autocompletion=complete.stacks)]
VariantOption = Annotated[
    str | None,
    typer.Option(help="The variant to train with; default: the stack's default", autocompletion=complete.variants),
]
PrecisionOption = Annotated[str, typer.Option(help="fp32 or bf16", autocompletion=complete.precisions)]
TrainNameOption = Annotated[str | None, typer.Option(help="The name of the folder; default: recipe, stack and seed")]
ChangesOption = Annotated[
    str | None, typer.Option("--set", metavar="KEY=VALUE,...", help="Change settings of the recipe")
]


def list_(modes: Modes) -> None:
    """List the suites, presets, stacks, variants, models and recipes."""
    from bench.commands.catalogue import list_all

    list_all(modes.console())


def models(
    modes: Modes,
    name: Annotated[
        str | None,
        typer.Argument(help="The name of a model; default: all models", autocompletion=complete.models),
    ] = None,
) -> None:
    """Show the layers of a model, with shapes and parameters."""
    from bench.commands.catalogue import show_models

    show_models(name or None, modes.console())


def train(
    modes: Modes,
    recipe: RecipeOption,
    stack: TrainStackOption = "pytorch",
    variant: VariantOption = None,
    precision: PrecisionOption = "fp32",
    epochs: Annotated[int | None, typer.Option(help="The number of epochs; default: the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="The seed of initial weights, image order and augmentation")] = 0,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: TrainNameOption = None,
    output: Annotated[str | None, typer.Option(help="A .safetensors file to copy the model to")] = None,
    changes: ChangesOption = None,
) -> None:
    """Train a model, or continue an interrupted training.

    Learning curves and an evaluation are written.
    """
    console = modes.console("reading options, data and machine")
    from bench.commands.train import train_model

    options = _train_options(
        recipe, stack, variant, precision, epochs, seed, threads, env, data, results, name, changes
    )
    train_model(options, Path(output) if output else None, console)


def tune(
    modes: Modes,
    recipe: RecipeOption,
    stack: TrainStackOption = "pytorch",
    variant: VariantOption = None,
    precision: PrecisionOption = "fp32",
    trials: Annotated[int, typer.Option(help="The number of trials, with those of an interrupted search")] = 20,
    epochs: Annotated[int, typer.Option(help="The number of epochs of each trial")] = 3,
    seed: Annotated[int, typer.Option(help="The seed of the search, and of each trial's training")] = 0,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: TrainNameOption = None,
    changes: ChangesOption = None,
    fleet: Annotated[
        Path | None, typer.Option(help="The folder of a fleet, to run the trials on its nodes with all their threads")
    ] = None,
) -> None:
    """Search the settings of a recipe, or continue a search.

    Batch size, learning rate and rho are chosen by held-out training images.
    """
    console = modes.console("reading options, data and machine")
    from bench.commands.train import tune_recipe

    options = _train_options(
        recipe, stack, variant, precision, epochs, seed, threads, env, data, results, name, changes
    )
    if fleet:
        # None of this machine's: each node has its own.
        options = replace(options, threads=threads or 0)
    tune_recipe(options, trials, fleet, console)


def evaluate(
    modes: Modes,
    file: ModelFileArgument,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="STACK/VARIANT[/PRECISION],...",
            help="Default: every installed stack",
            autocompletion=complete.listed(complete.arms),
        ),
    ] = None,
    model: ModelOption = None,
    threads: ThreadsOption = None,
    env: EnvOption = None,
    data: DataOption = "auto",
    results: ResultsOption = RESULTS,
    name: Annotated[
        str | None, typer.Option(help="The name of the folder for a file; default: the file's name")
    ] = None,
) -> None:
    """Evaluate a trained model on several stacks.

    It is run on all test images, by vanilla and Intel-optimised stacks.
    """
    console = modes.console("reading options, data and machine")
    from bench.commands.model_files import EvaluateOptions, evaluate_model, inference_arm
    from bench.suite.user_variables import user_variables

    options = EvaluateOptions(
        path=file,
        threads=thread_count(threads),
        variables=user_variables(env or ()),
        model=model or None,
        arms=tuple(map(inference_arm, names("--arms", arms))),
        data=data,
        results=results,
        name=name or None,
    )
    raise typer.Exit(evaluate_model(options, console))


def export(
    modes: Modes,
    file: ModelFileArgument,
    output: Annotated[Path, typer.Argument(help="A file that ends in .pth, .h5, .xml, .onnx or .safetensors")],
    model: ModelOption = None,
) -> None:
    """Write a model for other tools.

    The format is a PyTorch state dict, Keras weights, OpenVINO IR, ONNX or safetensors.
    """
    from bench.commands.model_files import export_file

    export_file(file, output, model or None, modes.console())


def import_(
    modes: Modes,
    file: Annotated[Path, typer.Argument(help="A PyTorch, Keras or safetensors file with weights")],
    output: Annotated[Path, typer.Argument(help="The .safetensors file to write")],
    model: Annotated[str, typer.Option(help="The model that the weights belong to", autocompletion=complete.models)],
    key: Annotated[str | None, typer.Option(help="The entry of the file, or the prefix of the names, to read")] = None,
    bn_epsilon: Annotated[
        float | None, typer.Option(help="The epsilon of the file's batch normalisation, such as 1e-5")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="How feature maps are flattened: channels-first or channels-last")
    ] = None,
    pixels: Annotated[
        str | None,
        typer.Option(metavar="MEAN,DEVIATION", help="How pixels from 0 to 1 are standardised, such as 0.5,0.5"),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="The place of batch normalisation: after-activation or before-activation")
    ] = None,
    threads: ThreadsOption = None,
    data: DataOption = "auto",
) -> None:
    """Read the weights of another tool, and show their accuracy.

    Only tensors are read, never code.
    """
    from bench.commands.model_files import import_file
    from models.formats.read import parse_assumptions

    assumed = parse_assumptions(key, bn_epsilon, layout, pixels, norm)
    import_file(file, output, model, assumed, data, thread_count(threads), modes.console())


def _train_options(
    recipe: str,
    stack: str,
    variant: str | None,
    precision: str,
    epochs: int | None,
    seed: int,
    threads: int | None,
    env: list[str] | None,
    data: str,
    results: Path,
    name: str | None,
    changes: str | None,
) -> TrainOptions:
    from bench.commands.train import TrainOptions
    from bench.suite.environments import find_stack
    from bench.suite.schedule import MAX_SEED
    from bench.suite.user_variables import user_variables
    from models.recipes.parse import load_recipe

    if epochs is not None and epochs < 0:
        raise UserError(f"--epochs {epochs}: allowed: 0 (the recipe's) or more")
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"--seed {seed}: allowed: 0 to {MAX_SEED}")
    return TrainOptions(
        recipe=load_recipe(recipe, changes or ""),
        stack=find_stack(stack),
        threads=thread_count(threads),
        variant=variant or None,
        precision=precision,
        epochs=epochs or None,
        seed=seed,
        data=data,
        results=results,
        name=name or None,
        changes=changes or "",
        variables=user_variables(env or ()),
    )
