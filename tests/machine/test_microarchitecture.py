"""Names of CPUs, and the instructions of their kernels."""

import pytest

from bench.machine.facts import Machine
from bench.machine.microarchitecture import cpu_label, instructions, microarchitecture


def cpu(vendor, family, model, *instruction_sets, name="CPU") -> Machine:
    return Machine(name, 1, 1, vendor, family, model, instruction_sets)


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (cpu("GenuineIntel", 6, 143), "Sapphire Rapids"),
        (cpu("GenuineIntel", 6, 207), "Emerald Rapids"),
        (cpu("GenuineIntel", 6, 173), "Granite Rapids"),
        (cpu("GenuineIntel", 6, 175), "Sierra Forest"),
        (cpu("GenuineIntel", 6, 106), "Ice Lake"),
        (cpu("GenuineIntel", 6, 85, "avx2", "avx512f"), "Skylake"),
        (cpu("GenuineIntel", 6, 85, "avx512f", "avx512_vnni"), "Cascade Lake"),
        (cpu("GenuineIntel", 6, 85, "avx512_vnni", "avx512_bf16"), "Cooper Lake"),
        (cpu("AuthenticAMD", 25, 1), "Zen 3"),
        (cpu("AuthenticAMD", 25, 17), "Zen 4"),
        (cpu("AuthenticAMD", 26, 2), "Zen 5"),
        (cpu("AuthenticAMD", 6, 143), None),
        (cpu("GenuineIntel", 6, 999), None),
        (Machine("CPU", 1, 1), None),
    ],
)
def test_a_microarchitecture_follows_from_vendor_family_and_model(machine, name) -> None:
    assert microarchitecture(machine) == name


def test_a_cpu_is_labelled_with_what_its_name_does_not_say() -> None:
    assert cpu_label(cpu("GenuineIntel", 6, 207, name="Intel(R) Xeon(R) Processor")) == (
        "Intel(R) Xeon(R) Processor (Emerald Rapids)"
    )
    assert cpu_label(cpu("GenuineIntel", 6, 85, name="Xeon (Skylake, IBRS)")) == "Xeon (Skylake, IBRS)"
    assert cpu_label(cpu("unknown", 1, 1, name="Other")) == "Other"


@pytest.mark.parametrize(
    ("kernels", "precision", "used"),
    [
        (("convolution brg_conv_fwd:avx10_1_512_amx bf16",), "bf16", "AMX"),
        (("Convolution brgconv_avx512_amx_I8 u8", "Subgraph jit_avx512_f32 f32"), "int8", "AMX"),
        (("Convolution brgconv_avx512_I8 u8",), "int8", "VNNI"),
        (("convolution brg_conv_fwd:avx512_core_vnni int8",), "int8", "VNNI"),
        (("inner_product brgemm:avx512_core_bf16 bf16",), "bf16", "AVX512_BF16"),
        (("convolution brgconv:avx512_core fp32",), "fp32", "AVX-512"),
        (("convolution jit:avx2 fp32",), "fp32", "AVX2"),
        (("_MklNativeFusedConv2D",), "fp32", None),
        ((), "bf16", None),
    ],
)
def test_the_widest_instructions_are_those_that_kernels_name(kernels, precision, used) -> None:
    assert instructions(kernels, precision, ("avx2", "avx512f", "avx512_vnni")) == used


def test_kernels_in_int8_use_vnni_only_where_the_cpu_has_it() -> None:
    assert instructions(("Convolution brgconv_avx512_I8 u8",), "int8", ("avx512f",)) == "AVX-512"
