"""Name the microarchitecture of an x86 CPU, and the instructions that its kernels used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from bench.machine.facts import Machine

INTEL, AMD = "GenuineIntel", "AuthenticAMD"
# Intel's family 6 by model number: arch/x86/include/asm/intel-family.h of Linux.
INTEL_MODELS = {
    0x3C: "Haswell", 0x3F: "Haswell", 0x45: "Haswell", 0x46: "Haswell",
    0x3D: "Broadwell", 0x47: "Broadwell", 0x4F: "Broadwell", 0x56: "Broadwell",
    0x4E: "Skylake", 0x5E: "Skylake", 0xA5: "Comet Lake", 0xA6: "Comet Lake",
    0x8E: "Kaby or Coffee Lake", 0x9E: "Kaby or Coffee Lake",
    0x7D: "Ice Lake", 0x7E: "Ice Lake", 0x6A: "Ice Lake", 0x6C: "Ice Lake", 0x8C: "Tiger Lake", 0x8D: "Tiger Lake",
    0xA7: "Rocket Lake", 0x97: "Alder Lake", 0x9A: "Alder Lake",
    0xB7: "Raptor Lake", 0xBA: "Raptor Lake", 0xBF: "Raptor Lake", 0xAA: "Meteor Lake", 0xAC: "Meteor Lake",
    0xC5: "Arrow Lake", 0xC6: "Arrow Lake", 0xB5: "Arrow Lake", 0xBD: "Lunar Lake", 0xCC: "Panther Lake",
    0x8F: "Sapphire Rapids", 0xCF: "Emerald Rapids", 0xAD: "Granite Rapids", 0xAE: "Granite Rapids",
    0xAF: "Sierra Forest", 0xDD: "Clearwater Forest",
}  # fmt: skip
# Of all these models. Three generations of servers share one model number.
INTEL_FAMILY, SKYLAKE_SERVER = 6, 0x55
# AMD's family and ranges of models: arch/x86/kernel/cpu/amd.c of Linux.
AMD_MODELS = (
    (0x17, 0x00, 0x2F, "Zen"),
    (0x17, 0x30, 0x4F, "Zen 2"),
    (0x17, 0x50, 0x5F, "Zen"),
    (0x17, 0x60, 0xAF, "Zen 2"),
    (0x19, 0x00, 0x0F, "Zen 3"),
    (0x19, 0x20, 0x5F, "Zen 3"),
    (0x19, 0x10, 0x1F, "Zen 4"),
    (0x19, 0x60, 0xAF, "Zen 4"),
    (0x1A, 0x00, 0x2F, "Zen 5"),
    (0x1A, 0x40, 0x4F, "Zen 5"),
    (0x1A, 0x60, 0x7F, "Zen 5"),
)


def microarchitecture(machine: Machine) -> str | None:
    """Return the name of a CPU's microarchitecture, or None if its numbers are not known."""
    family, model = machine.family, machine.model
    if family is None or model is None:
        return None
    if (machine.vendor, family, model) == (INTEL, INTEL_FAMILY, SKYLAKE_SERVER):
        newer = {"avx512_bf16": "Cooper Lake", "avx512_vnni": "Cascade Lake"}
        return next((name for flag, name in newer.items() if flag in machine.instruction_sets), "Skylake")
    if (machine.vendor, family) == (INTEL, INTEL_FAMILY):
        return INTEL_MODELS.get(model)
    ranges = AMD_MODELS if machine.vendor == AMD else ()
    return next((name for of, first, last, name in ranges if family == of and first <= model <= last), None)


def cpu_label(machine: Machine) -> str:
    """Return the CPU's own name, with its microarchitecture if it does not say that."""
    name = microarchitecture(machine)
    return machine.cpu if name is None or name in machine.cpu else f"{machine.cpu} ({name})"


def instructions(kernels: Iterable[str], precision: str, instruction_sets: Collection[str]) -> str | None:
    """Return the widest instructions that the names of kernels show, or None if they show none.

    Kernels in int8 use VNNI wherever the CPU has it, but not all names say so.
    """
    text = " ".join(kernels).lower()
    if "amx" in text:
        return "AMX"
    wide = "avx512" in text or "avx10" in text
    if not wide and "avx2" not in text:
        return None
    vnni = {"avx512_vnni", "avx_vnni"} & set(instruction_sets)
    if precision == "int8" and ("vnni" in text or vnni):
        return "VNNI"
    if not wide:
        return "AVX2"
    return "AVX512_BF16" if "bf16" in text else "AVX-512"
