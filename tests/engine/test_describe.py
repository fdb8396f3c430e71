from dataclasses import replace

import pytest

from backends.registry import stacks
from bench.engine.describe import Origin, describe_run
from bench.run_info import PairInfo, StackInfo, TrainingInfo, read_run, write_run
from bench.suite.environments import HARNESS, Environment
from bench.suite.parse import load_suite
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from bench.suite.user_variables import UserVariables
from bench.suite.variables import environment_variables, restart_variables
from models.zoo import CNN_SMALL
from tests.engine.conftest import FOUR, ONE, ORACLE, REPLICA, SUITE

ORIGIN = Origin(("bench", "run"), "2026-01-01T00:00:00+00:00", "c0ffee", ("close the browser",))


@pytest.fixture
def info(context):
    return describe_run(context.plan, context.data, context.models, ORIGIN)


def test_a_description_is_read_back_unchanged(info, tmp_path) -> None:
    write_run(tmp_path, info)
    assert read_run(tmp_path) == info


def test_the_schedule_that_is_stored_is_the_one_that_is_measured(info, context) -> None:
    assert info.schedule is context.plan.schedule


def test_a_description_has_the_origin_of_the_run(info) -> None:
    assert (info.command, info.started, info.git_commit, info.advice) == (
        ORIGIN.command, ORIGIN.started, ORIGIN.git_commit, ORIGIN.advice,
    )  # fmt: skip


def test_a_description_has_the_comparisons_of_the_suite(info) -> None:
    assert info.arms == (ORACLE, REPLICA)
    assert info.cases == (ONE, FOUR)
    assert info.pairs == tuple(PairInfo(REPLICA.id, ORACLE.id, case.id, candidate=False) for case in (ONE, FOUR))
    assert info.lineups == {case.id: (ORACLE.id, REPLICA.id) for case in (ONE, FOUR)}
    assert info.suite.training is None


def test_a_description_has_the_model_and_its_work(info) -> None:
    model = info.models["cnn-small"]
    assert (model.spec, model.trained) == (CNN_SMALL.digest, True)
    assert model.work is not None
    assert (model.work.multiply_adds, model.work.parameters) == (CNN_SMALL.multiply_adds, CNN_SMALL.parameters)
    assert (model.work.input_elements, model.work.output_elements) == (784, 10)


def test_a_description_says_which_variants_compile(info) -> None:
    pytorch = info.stacks["pytorch"]
    assert pytorch.variants is not None
    assert {name: variant.compiles for name, variant in pytorch.variants.items()} == {
        name: variant.compiles for name, variant in stacks()["pytorch"].variants.items()
    }
    assert pytorch.variants["compile"].compiles is True
    assert info.stacks["oracle"] == StackInfo(
        environment=HARNESS, baselines=(), summary=stacks()["oracle"].summary, compiles=False,
        variants=info.stacks["oracle"].variants, intel=False,
    )  # fmt: skip


def test_variables_that_depend_on_the_number_of_threads_have_all_values(few_images) -> None:
    plan = make_plan(replace(SUITE, threads=(1, 2)), PRESETS["smoke"], seed=1, threads=2)
    info = describe_run(plan, few_images, {}, ORIGIN)
    assert info.settings["bound"] == environment_variables("bound", 1) | {
        "OMP_NUM_THREADS": "1 or 2", "OPENBLAS_NUM_THREADS": "1 or 2",
    }  # fmt: skip
    assert info.restart_settings == restart_variables()


@pytest.mark.parametrize(("preset", "rounds", "scatter"), [("standard", 24, 0.01), ("smoke", 4, None)])
def test_when_a_block_has_further_rounds_is_stored(few_images, preset, rounds, scatter) -> None:
    protocol = describe_run(make_plan(SUITE, PRESETS[preset], seed=1, threads=2), few_images, {}, ORIGIN).protocol
    assert (protocol.rounds, protocol.scatter) == (rounds, scatter)


def test_the_users_variables_are_stored(context) -> None:
    variables = UserVariables({"A": "b"}, {"CXX": "g++"}, ("OMP_NUM_THREADS",))
    info = describe_run(replace(context.plan, variables=variables), context.data, {}, ORIGIN)
    assert info.variables == variables
    assert "A" not in info.settings["bound"]


def test_environments_are_described_once_with_the_packages_that_differ(context, tmp_path) -> None:
    ours, theirs = (
        Environment(name, tmp_path / name / "bin" / "python", "3.11.7", {"numpy": version})
        for name, version in (("vanilla", "1"), ("ipex", "2"))
    )
    environments = {"pytorch": ours, "tensorflow": ours, "ipex": theirs}
    plan = replace(context.plan, environments=environments, missing={"itex": "no itex"})
    info = describe_run(plan, context.data, {}, ORIGIN)
    assert {name: environment.packages for name, environment in info.environments.items()} == {
        "vanilla": {"numpy": "1"}, "ipex": {"numpy": "2"},
    }  # fmt: skip
    assert info.mismatches == {"vanilla ipex": {"numpy": ("1", "2")}}
    assert info.missing == {"itex": "no itex"}


def test_a_suite_that_trains_is_described_with_its_recipe(few_images) -> None:
    suite = load_suite("training")
    info = describe_run(make_plan(suite, PRESETS["smoke"], seed=1, threads=1), few_images, {}, ORIGIN)
    assert info.suite.training == TrainingInfo(suite.recipe, suite.epochs, images=6400, seeds=1)
