from types import SimpleNamespace

import numpy as np
import pytest

from backends.builders import builder_for, require_evidence, variants_of
from backends.protocol import InferenceSpec, ProofError, UnsupportedError, Variant
from models.zoo import CNN_SMALL

BUILDERS = {"fast": SimpleNamespace(variant=Variant("fast", ("fp32", "bf16")))}


def spec(variant, precision):
    return InferenceSpec(CNN_SMALL, {}, variant, precision, 1, np.zeros((1, 28, 28, 1), np.float32))


def test_a_builder_is_selected_by_variant_and_precision() -> None:
    assert builder_for(BUILDERS, spec("fast", "bf16")) is BUILDERS["fast"]
    for variant, precision in (("fast", "int8"), ("slow", "fp32")):
        with pytest.raises(UnsupportedError, match=f"no variant {variant} at {precision}"):
            builder_for(BUILDERS, spec(variant, precision))


def test_variants_are_those_of_all_builders() -> None:
    assert list(variants_of(BUILDERS, {"train": BUILDERS["fast"]})) == ["fast", "train"]


def test_evidence_is_an_operator_with_one_of_the_prefixes() -> None:
    require_evidence(["aten::conv", "mkldnn::x"], ("mkldnn::", "other"))
    with pytest.raises(ProofError, match="none of mkldnn::, other ran"):
        require_evidence(["aten::conv"], ("mkldnn::", "other"))


def test_an_operator_that_must_be_absent_fails_the_proof() -> None:
    with pytest.raises(ProofError, match=r"^_ITEXConv ran$"):
        require_evidence(["Conv2D", "_ITEXConv"], ("Conv2D",), absent=("_ITEX",))
