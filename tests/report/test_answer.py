"""The answer at the top of a report."""

import re
from dataclasses import replace

import pytest

from bench.analysis.attribution import attributions
from bench.records import Parity, Proof, Slice
from bench.report.answer.judgements import judgements, summary_rows
from bench.report.answer.section import answer
from bench.report.answer.wording import answer_sentence, short_labels
from bench.report.arm_table import arm_rows
from bench.report.document import Cards, Section
from bench.report.text import attribution_sentence
from bench.run_info import StackInfo
from bench.suite.arms import Arm, Case
from tests.analysis.recorded_run import CASE, EAGER, JIT, inference_run, ladder_info, training_run

UNCERTAIN = "Whether IPEX is worth it here is not settled: the interval includes 1; .*further blocks would settle it."


def with_second_case(builder, jit_factor: float):
    """Add batch 64, in which every latency of IPEX is multiplied by a factor."""
    case = replace(CASE, batch_size=64)
    records = [replace(record, case=case.id) for record in builder.records if hasattr(record, "case")]
    for record in records:
        if hasattr(record, "samples_ns") and record.arm == JIT.id:
            samples = tuple(round(sample * jit_factor) for sample in record.samples_ns)
            builder.records.append(replace(record, samples_ns=samples))
        else:
            builder.records.append(record)
    pairs = [replace(pair, case=case.id, candidate=False) for pair in builder.info.pairs]
    return builder.describe(
        cases=(CASE, case),
        lineups=builder.info.lineups | {case.id: builder.info.lineups[CASE.id]},
        pairs=(*builder.info.pairs, *pairs),
    )


def facts(run) -> dict[str, str]:
    """Return what the first card says, by the words it begins with."""
    section = answer(run, arm_rows(run))
    (card,) = next(block.cards for block in section.blocks if isinstance(block, Cards))
    figures, *paragraphs = card.blocks[1:]
    needs = {row.cells[0].text: " against ".join(cell.text for cell in row.cells[1:]) for row in figures.rows}
    said = {strong.text: text.strip() for strong, text in (paragraph.text for paragraph in paragraphs)}
    return {"badge": card.badge} | needs | said


@pytest.mark.parametrize(
    ("latencies", "sentence"),
    [
        ({}, r"IPEX is worth it here \(1.34x over the fastest stock variant\)."),
        ({"jit": 134_000}, r"IPEX is not worth it here \(no gain over stock\)."),
        ({"jit": 150_000}, r"IPEX is not worth it here \(slower than stock\)."),
        ({"jit": 130_500, "noise": 0.05}, UNCERTAIN),
        ({"preset": "smoke"}, "Whether IPEX is worth it here is not settled: preset smoke claims nothing."),
    ],
)
def test_the_answer_is_about_the_fastest_stock_variant(tmp_path, latencies, sentence) -> None:
    assert re.fullmatch(sentence, answer_sentence(inference_run(tmp_path / "run", **latencies).read()))


@pytest.mark.parametrize(
    ("factor", "sentence", "badge"),
    [
        (1.0, "IPEX is worth it here at both batch sizes (1.34x, 1.34x over the fastest stock variant).", "worth it"),
        (1.34, "IPEX is worth it at batch 1, not at batch 64 (no gain over stock).", "worth it at batch 1 only"),
        (1.5, "IPEX is worth it at batch 1, not at batch 64 (slower than stock).", "worth it at batch 1 only"),
    ],
)
def test_the_answer_covers_every_batch_size(tmp_path, factor, sentence, badge) -> None:
    run = with_second_case(inference_run(tmp_path / "run"), factor).read()
    assert answer_sentence(run) == sentence
    assert facts(run)["badge"] == badge
    assert [outcome.case.batch_size for _, outcome in summary_rows(run)] == [1, 64]


def test_a_card_says_what_a_stack_costs_and_how_accurate_it_is(tmp_path) -> None:
    ladder = ladder_info("ladder", [("as it is", EAGER), ("extension", JIT)])
    shown = facts(inference_run(tmp_path / "run", noise=1e-9).describe(ladders=(ladder,)).read())
    assert shown["Compared with"] == "pytorch compile."
    assert shown["Latency"] == "100 µs against 134 µs"
    assert shown["Accuracy"] == "90.00 % against 90.00 %"
    assert shown["How much is the extension's"].startswith("42 % of 2.00x: its share of the gain")
    assert "Peak memory" in shown
    assert shown["Maintenance"].startswith("Archived by its authors")


def test_a_withheld_result_settles_nothing(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    builder.change(Parity, lambda record: record.arm == JIT.id, max_abs_logit_diff=1.0)
    run = builder.read()
    assert re.fullmatch(
        "Whether IPEX is worth it here is not settled: logits differ from the baseline's by 1, more than 0.001.",
        answer_sentence(run),
    )
    (card,) = next(block.cards for block in answer(run, arm_rows(run)).blocks if isinstance(block, Cards))
    assert card.blocks[0].rows[0].cells[1].struck


def test_a_withheld_result_has_no_share_of_the_gain(tmp_path) -> None:
    builder = inference_run(tmp_path / "run").describe(ladders=(ladder_info("l", [("a", EAGER), ("b", JIT)]),))
    assert "How much is the extension's" in facts(builder.read())
    builder.change(Parity, lambda record: record.arm == JIT.id, max_abs_logit_diff=1.0)
    run = builder.read()
    assert "How much is the extension's" not in facts(run)
    assert "This is withheld: logits differ" in attribution_sentence(attributions(run)[0])


def test_of_many_batch_sizes_the_answer_has_the_least_and_the_greatest_speedup(tmp_path) -> None:
    builder = inference_run(tmp_path / "run", noise=0)
    cases = tuple(replace(CASE, batch_size=size) for size in (1, 2, 4, 8))
    own = [record for record in builder.records if hasattr(record, "case")]
    for index, case in enumerate(cases[1:], 1):
        for record in own:
            faster = hasattr(record, "samples_ns") and record.arm == JIT.id
            changes = (
                {"samples_ns": tuple(sample * 10 // (10 + index) for sample in record.samples_ns)} if faster else {}
            )
            builder.records.append(replace(record, case=case.id, **changes))
    pairs = tuple(replace(pair, case=case.id) for case in cases for pair in builder.info.pairs)
    lineup = builder.info.lineups[CASE.id]
    run = builder.describe(cases=cases, lineups={case.id: lineup for case in cases}, pairs=pairs).read()
    assert (
        answer_sentence(run)
        == "IPEX is worth it here at every batch size (1.34x to 1.74x over the fastest stock variant)."
    )


def test_a_faster_stock_stack_of_another_framework_is_named(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    other = Arm("tensorflow", "graph")
    builder.add_arm(other, EAGER)
    for index, record in enumerate(builder.records):
        if getattr(record, "arm", "") == other.id and hasattr(record, "samples_ns"):
            builder.records[index] = replace(record, samples_ns=tuple(sample // 4 for sample in record.samples_ns))
    builder.describe(stacks=builder.info.stacks | {"tensorflow": StackInfo("vanilla", ())})
    run = builder.read()
    assert answer_sentence(run).endswith(
        "x over the fastest variant of stock PyTorch), but stock TensorFlow is faster there."
    )
    assert "stock tensorflow graph is 2.0" in facts(run)["Compared with"]


def test_a_newer_stock_version_is_judged_apart(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    newest = Arm("pytorch-latest", "compile")
    builder.add_arm(newest, JIT)
    builder.records.append(Parity(newest.id, EAGER.id, CASE.id, 1e-6, 1.0))
    pair = next(pair for pair in builder.info.pairs if (pair.arm, pair.baseline) == (JIT.id, EAGER.id))
    builder.describe(
        stacks=builder.info.stacks | {"pytorch-latest": StackInfo("latest", ("pytorch",))},
        pairs=(*builder.info.pairs, replace(pair, arm=newest.id, candidate=False)),
    )
    run = builder.read()
    assert [judgement.stack for judgement in judgements(run)] == ["ipex"]
    assert [judgement.stack for judgement in judgements(run, upgrades=True)] == ["pytorch-latest"]
    (upgrade,) = [
        block
        for block in answer(run, arm_rows(run)).blocks
        if isinstance(block, Section) and block.title == "Would a newer stock version do?"
    ]
    assert upgrade.blocks[1].cards[0].title == "Newest PyTorch compile"


def test_a_stack_that_is_not_by_intel_is_not_called_so_and_comes_last(tmp_path) -> None:
    """It is the fastest here; a run that does not say whose a stack is calls none an alternative."""
    builder = inference_run(tmp_path / "run")
    other = Arm("onnxruntime", "session")
    builder.add_arm(other, JIT)
    for index, record in enumerate(builder.records):
        if getattr(record, "arm", "") == other.id and hasattr(record, "samples_ns"):
            builder.records[index] = replace(record, samples_ns=tuple(sample // 4 for sample in record.samples_ns))
    builder.records.append(Parity(other.id, EAGER.id, CASE.id, 1e-6, 1.0))
    pairs = [pair for pair in builder.info.pairs if pair.arm == JIT.id]
    infos = {name: replace(info, intel=name == "ipex") for name, info in builder.info.stacks.items()}
    builder.describe(
        stacks=infos | {"onnxruntime": StackInfo("onnxruntime", ("pytorch",), intel=False)},
        pairs=(*builder.info.pairs, *(replace(pair, arm=other.id, candidate=False) for pair in pairs)),
    )
    run = builder.read()
    assert [judgement.stack for judgement in judgements(run)] == ["ipex", "onnxruntime"]
    assert re.fullmatch(r"IPEX is .*\. ONNX Runtime \(not Intel's\) is worth it here \(.*\)\.", answer_sentence(run))
    (cards,) = [block for block in answer(run, arm_rows(run)).blocks if isinstance(block, Cards)]
    said = [paragraph.text for card in cards.cards for paragraph in card.blocks[2:]]
    assert [text for strong, text in said if strong.text == "Not Intel's"] == [" An alternative to Intel's stacks."]
    builder.describe(stacks=builder.info.stacks | {"onnxruntime": StackInfo("onnxruntime", ("pytorch",))})
    assert answer_sentence(builder.read()).startswith("ONNX Runtime is worth it here (")


def test_times_in_another_order_than_the_speedup_are_explained(tmp_path) -> None:
    """In three rounds, IPEX takes 0.9, 1.9 and 1.2 units, stock 1, 2 and 1.1: IPEX is faster in the middle ratio."""
    builder = inference_run(tmp_path / "run", noise=1e-9, jit=134_000)
    assert "Time and speedup" not in facts(builder.read())
    builder.records = [
        replace(record, samples_ns=tuple(round(sample * units[record.round]) for sample in record.samples_ns))
        if isinstance(record, Slice) and (units := (0.9, 1.9, 1.2) if record.arm == JIT.id else (1, 2, 1.1))
        else record
        for record in builder.records
    ]
    shown = facts(builder.read())
    assert shown["Latency"] == "161 µs against 147 µs"
    assert shown["badge"] == "worth it"
    assert shown["Time and speedup"].startswith("The times above are medians over the whole run. ")


def test_training_is_judged_by_the_time_of_an_epoch(tmp_path) -> None:
    run = training_run(tmp_path / "run").read()
    assert answer_sentence(run) == "IPEX is worth it here (1.50x over the fastest stock variant)."
    assert facts(run)["Compared with"] == "pytorch train."
    assert facts(run)["Epoch"] == "4.00 s against 6.01 s"
    assert facts(run)["Peak memory"]


def test_without_comparisons_there_is_no_answer(tmp_path) -> None:
    run = inference_run(tmp_path / "run").describe(pairs=()).read()
    assert answer_sentence(run).startswith("No stack was measured with a stock one")


def test_synthetic_data_is_named_in_the_answer(tmp_path) -> None:
    run = inference_run(tmp_path / "run", data="synthetic").read()
    assert answer_sentence(run).endswith(" The data is synthetic.")


def test_labels_leave_out_what_all_cases_have_in_common() -> None:
    cases = [Case("a", "latency", 1), Case("a", "latency", 64), Case("b", "latency", 64)]
    assert list(short_labels(cases).values()) == ["a, batch 1", "a, batch 64", "b, batch 64"]
    assert short_labels(cases[:1]) == {cases[0]: "a, latency, batch 1"}


def test_an_inaccurate_lower_precision_does_not_change_the_answer(tmp_path) -> None:
    builder = inference_run(tmp_path / "run")
    builder.change(Proof, lambda record: record.arm == EAGER.id, accuracy=0.9)
    assert facts(builder.read())["badge"] == "worth it"
