import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.codec import encode
from bench.journal import RUN
from bench.run_info import PairInfo, TrainingInfo, read_run, write_run
from bench.suite.arms import Arm, Case
from models.errors import UserError
from models.recipes.parse import load_recipe
from tests.analysis.recorded_run import CASE, EAGER, inference_run, ladder_info, training_run

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def info(tmp_path):
    return inference_run(tmp_path).info


def refused(folder, content) -> str:
    """Return the message with which run.json is refused."""
    (folder / RUN).write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read_run(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / RUN}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("make", [inference_run, training_run])
def test_the_description_of_a_run_is_read_back_unchanged(tmp_path, make) -> None:
    info = make(tmp_path).info
    write_run(tmp_path, info)
    assert read_run(tmp_path) == info


def test_a_folder_that_holds_no_run_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="name the folder of a run"):
        read_run(tmp_path)
    for damaged in ("[", "", "[" * 100_000, '{"schema": NaN}', '{"schema": 2, "schema": 2}', "1" * 5000):
        (tmp_path / RUN).write_text(damaged)
        with pytest.raises(UserError, match=r"run\.json: is not JSON"):
            read_run(tmp_path)
    (tmp_path / RUN).write_bytes(b"\xff")
    with pytest.raises(UserError, match="can't be read"):
        read_run(tmp_path)


@pytest.mark.parametrize("content", [[], "x", 1, None, {}, {"schema": 99}, {"schema": "2"}])
def test_another_schema_is_refused(tmp_path, content) -> None:
    assert "but this version reads the schemas 1 to 2" in refused(tmp_path, content)


def test_fields_of_a_later_version_are_ignored(tmp_path, info) -> None:
    content = encode(info) | {"later": 1}
    content["suite"]["later"] = content["arms"][0]["later"] = 2
    (tmp_path / RUN).write_text(json.dumps(content))
    assert read_run(tmp_path) == info


def test_a_missing_or_wrong_field_is_named(tmp_path, info) -> None:
    content = encode(info)
    assert "damaged: lacks arms" in refused(tmp_path, {name: content[name] for name in content if name != "arms"})
    assert "damaged: machine lacks cores" in refused(tmp_path, content | {"machine": {"cpu": "c", "usable_cores": 2}})
    assert "damaged: arms.0 must be an object" in refused(tmp_path, content | {"arms": [1]})
    assert "damaged: seed must be an integer" in refused(tmp_path, content | {"seed": True})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda info: {"preset": "odd"}, "preset refers to the preset 'odd'"),
        (lambda info: {"stacks": {}}, "arms refers to the stack 'ipex'"),
        (lambda info: {"arms": (*info.arms, replace(EAGER, precision="fp8"))}, "arms refers to the precision 'fp8'"),
        (lambda info: {"models": {}}, "cases refers to the model 'cnn-small'"),
        (lambda info: {"cases": (CASE, Case("cnn-small", "odd", 1))}, "cases refers to the scenario 'odd'"),
        (lambda info: {"lineups": {}}, f"cases refers to the lineup '{CASE.id}'"),
        (lambda info: {"lineups": info.lineups | {"odd": ()}}, "lineups refers to the case 'odd'"),
        (lambda info: {"lineups": {CASE.id: ("odd",)}}, "lineups refers to the arm 'odd'"),
        (lambda info: {"pairs": (PairInfo("odd", EAGER.id, CASE.id, False),)}, "pairs refers to the arm 'odd'"),
        (lambda info: {"pairs": (PairInfo(EAGER.id, "odd", CASE.id, False),)}, "pairs refers to the arm 'odd'"),
        (lambda info: {"pairs": (PairInfo(EAGER.id, EAGER.id, "odd", False),)}, "pairs refers to the case 'odd'"),
        (lambda info: {"pairs": (PairInfo("a\nb", EAGER.id, CASE.id, False),)}, r"pairs refers to the arm 'a\nb'"),
        (lambda info: {"threads": 0}, "threads has a count that is not positive"),
        (lambda info: {"machine": replace(info.machine, cores=0)}, "machine has a count that is not positive"),
        (lambda info: {"machine": replace(info.machine, usable_cores=-1)}, "machine has a count that is not positive"),
    ],
)
def test_an_undefined_name_or_an_impossible_count_is_named(tmp_path, info, change, problem) -> None:
    assert f"damaged: {problem}" in refused(tmp_path, encode(replace(info, **change(info))))


def test_cases_have_images(tmp_path, info) -> None:
    case = replace(CASE, batch_size=0)
    content = encode(replace(info, cases=(case,), lineups={case.id: ()}, pairs=()))
    assert "cases has a count that is not positive" in refused(tmp_path, content)


def test_cases_that_train_need_to_say_how(tmp_path) -> None:
    info = training_run(tmp_path).info
    suites = {
        "suite.training is missing": None,
        "suite.training has a count": TrainingInfo(load_recipe("adam"), 3, 0, 3),
    }
    for problem, training in suites.items():
        content = encode(replace(info, suite=replace(info.suite, training=training)))
        assert f"damaged: {problem}" in refused(tmp_path, content)


def test_ladders_may_have_arms_that_the_run_does_not(tmp_path, info) -> None:
    ladders = (ladder_info("extension", [("as it is", EAGER), ("not chosen", Arm("itex", "graph"))]),)
    write_run(tmp_path, replace(info, ladders=ladders))
    assert read_run(tmp_path).ladders == ladders


@given(data=st.data())
def test_no_changed_field_makes_the_reader_crash(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("run")
    content = json.loads(json.dumps(encode(inference_run(folder).info)))
    place, inner = content, content
    while isinstance(inner, dict | list) and inner:
        place, key = inner, data.draw(st.sampled_from([*inner] if isinstance(inner, dict) else range(len(inner))))
        inner = place[key]
        if data.draw(st.booleans()):
            break
    place[key] = data.draw(json_values)
    (folder / RUN).write_text(json.dumps(content))
    try:
        read_run(folder)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017 - both outcomes are fine
