from itertools import product

from backends.registry import stacks
from models.formats.kind import PYTORCH


def test_vanilla_stacks_come_first() -> None:
    vanilla = [not stack.baselines for stack in stacks().values()]
    assert vanilla == sorted(vanilla, reverse=True)


def test_default_variants_are_those_that_most_people_use_or_the_best_of_an_extension() -> None:
    assert {name: stack.default_variant for name, stack in stacks().items()} == {
        "null": "constant", "oracle": "numpy", "pytorch": "eager", "tensorflow": "graph", "ipex": "jit",
        "itex": "frozen", "onnxruntime": "session", "openvino": "latency", "pytorch-latest": "eager",
        "tensorflow-latest": "graph",
    }  # fmt: skip


def test_default_variants_answer_synchronously_in_fp32_and_default_trainings_train() -> None:
    for stack in stacks().values():
        variant = stack.variants[stack.default_variant or ""]
        assert "fp32" in variant.precisions
        assert not variant.asynchronous
        assert not variant.trains
        assert stack.default_training == next(iter(stack.trainings), None)


def test_the_variants_that_leave_compiled_code_behind_have_a_folder_for_it() -> None:
    compiling = {f"{stack.name}/{name}" for stack in stacks().values() for name in stack.variants
                 if stack.variants[name].compiles}  # fmt: skip
    variants = ("compile", "max-autotune", "aot", "train-compile")
    vanilla = product(("pytorch", "pytorch-latest"), variants)
    assert compiling == {f"{stack}/{name}" for stack, name in vanilla} | {"pytorch/cpp-wrapper", "ipex/compile"}
    assert all(stacks()[name.partition("/")[0]].cache_variables for name in compiling)


def test_the_kinds_and_suffixes_of_model_files_are_declared() -> None:
    assert [name for name, stack in stacks().items() if PYTORCH in stack.reads] == ["pytorch", "ipex", "pytorch-latest"]
    assert [name for name, stack in stacks().items() if ".pth" in stack.writes] == ["pytorch", "ipex", "pytorch-latest"]
    assert [name for name, stack in stacks().items() if ".xml" in stack.writes] == ["openvino"]
    assert [name for name, stack in stacks().items() if ".onnx" in stack.writes] == ["onnxruntime"]
