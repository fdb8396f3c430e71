"""What backends share to build their variants: lookup by name, and the check of what ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from backends.protocol import InferenceSpec, ProofError, UnsupportedError, Variant

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FLOATS = ("fp32", "bf16")


class VariantBuilder(Protocol):
    @property
    def variant(self) -> Variant: ...


Builder = TypeVar("Builder", bound=VariantBuilder)


def variants_of(*builders: Mapping[str, VariantBuilder]) -> dict[str, Variant]:
    return {name: builder.variant for group in builders for name, builder in group.items()}


def builder_for(builders: Mapping[str, Builder], spec: InferenceSpec) -> Builder:
    """Return the builder of a spec's variant; raise UnsupportedError when there is none at its precision."""
    builder = builders.get(spec.variant)
    if builder is None or spec.precision not in builder.variant.precisions:
        raise UnsupportedError(f"no variant {spec.variant} at {spec.precision}")
    return builder


def require_evidence(operators: Iterable[str], evidence: tuple[str, ...], absent: tuple[str, ...] = ()) -> None:
    """Raise ProofError unless an operator has a prefix in `evidence`, and none has one in `absent`."""
    names = list(operators)
    if not any(name.startswith(evidence) for name in names):
        raise ProofError(f"none of {', '.join(evidence)} ran")
    if unwanted := [name for name in names if name.startswith(absent)]:
        raise ProofError(f"{', '.join(unwanted)} ran")
