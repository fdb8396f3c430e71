"""What becomes of the user's environment variables."""

import os
from pathlib import Path

import pytest

from backends.registry import stacks
from bench.suite.user_variables import (
    ONEDNN_LEVELS,
    UserVariables,
    limit_fault,
    usable_instruction_sets,
    user_variables,
)
from bench.suite.variables import SETTINGS, environment_variables
from models.errors import UserError

ZEN_5 = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16")


@pytest.fixture
def own(monkeypatch):
    """Return a function that replaces the variables of this process."""

    def replace(**variables: str) -> None:
        for name in list(os.environ):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return replace


def test_what_is_given_kept_and_dropped_is_said(own) -> None:
    own(HOME="/h", CXX="clang++", OMP_NUM_THREADS="3", LD_LIBRARY_PATH="/x", XLA_FLAGS="--y", EDITOR="vi")
    assert user_variables(["KMP_SETTINGS=1", "A=b=c", "EMPTY="]) == UserVariables(
        given={"KMP_SETTINGS": "1", "A": "b=c", "EMPTY": ""},
        kept={"CXX": "clang++"},
        dropped=("LD_LIBRARY_PATH", "OMP_NUM_THREADS", "XLA_FLAGS"),
    )


@pytest.mark.parametrize(
    "name",
    ["OMP_PLACES", "KMP_AFFINITY", "MKL_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TF_XLA_FLAGS",
     "XLA_FLAGS", "LD_PRELOAD", "LD_LIBRARY_PATH", "TORCHINDUCTOR_MAX_AUTOTUNE", "GLIBC_TUNABLES", "PYTHONPATH"],
)  # fmt: skip
def test_every_kind_of_variable_that_stacks_act_on_is_named(own, name) -> None:
    own(**{name: "1"})
    assert user_variables().dropped == (name,)
    own(**{name: ""})
    assert user_variables().dropped == ()


def test_the_variables_of_a_program_that_shares_a_prefix_are_not_named(own) -> None:
    own(TF_VAR_region="north", TF_CLI_CONFIG_FILE="x")
    assert user_variables() == UserVariables()


def test_a_variable_that_is_given_is_not_dropped(own) -> None:
    own(LD_LIBRARY_PATH="/own", CXX="g++")
    assert user_variables(["LD_LIBRARY_PATH=/given"]) == UserVariables({"LD_LIBRARY_PATH": "/given"}, {"CXX": "g++"})


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        ("A", "--env A: allowed: NAME=VALUE"),
        ("=1", "--env =1: allowed: NAME=VALUE"),
        ("A B=1", "--env A B=1: allowed: NAME=VALUE"),
        ("OMP_NUM_THREADS=2", "the harness sets the number of threads; use --threads"),
        ("MKL_NUM_THREADS=2", "the harness sets the number of threads; use --threads"),
        ("TF_NUM_INTRAOP_THREADS=2", "the harness sets the number of threads; use --threads"),
        ("OMP_PROC_BIND=spread", "the harness sets it for all arms alike; `bench list` shows its settings"),
        ("MALLOC_TRIM_THRESHOLD_=1", "the harness sets it for all arms alike"),
        ("ITEX_OMP_THREADPOOL=0", "the harness sets it for all arms alike"),
        ("TORCHINDUCTOR_CACHE_DIR=/x", "the harness sets it for all arms alike"),
        ("PATH=/x", "set it before the command instead"),
        ("CXX=clang++", "set it before the command instead"),
        ("PYTHONPATH=/x", "workers are isolated from Python's own variables"),
        ("ONEDNN_MAX_CPU_ISA=AVX3", "'AVX3' has no effect; allowed: SSE41, AVX, AVX2,"),
        ("DNNL_MAX_CPU_ISA=AVX2", "use ONEDNN_MAX_CPU_ISA, its newer name"),
        ("ATEN_CPU_CAPABILITY=AVX2", "'AVX2' has no effect; allowed: default, avx2,"),
        ("LD_PRELOAD=libtcmalloc.so", "'libtcmalloc.so' can't be loaded; allowed: absolute paths"),
        ("LD_PRELOAD=/nowhere/lib.so", "'/nowhere/lib.so' can't be loaded"),
    ],
)
def test_what_workers_can_not_get_is_refused(assignment, reason) -> None:
    with pytest.raises(UserError) as raised:
        user_variables([assignment])
    assert reason in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_variable_that_is_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="--env A: is given twice"):
        user_variables(["A=1", "A=2"])


def test_every_variable_that_the_harness_sets_is_refused_except_a_limit_of_the_instruction_sets() -> None:
    limited = {name for settings in SETTINGS.values() if settings.limit for name in settings.variables}
    usual = {name for name in SETTINGS if not SETTINGS[name].limit}
    names = {name for settings in usual for name in environment_variables(settings, 1)}
    names |= {name for stack in stacks().values() for variant in stack.variants.values() for name in variant.settings}
    for name in names:
        with pytest.raises(UserError, match=f"--env {name}"):
            user_variables([f"{name}=1"])
    assert limited - names == {"ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"}
    user_variables(["ONEDNN_MAX_CPU_ISA=avx2", "ATEN_CPU_CAPABILITY=avx2"])


def test_libraries_that_exist_can_be_preloaded(tmp_path) -> None:
    one, other = tmp_path / "one.so", tmp_path / "other.so"
    for library in (one, other):
        library.touch()
    assert user_variables([f"LD_PRELOAD={one}:{other}"]).given == {"LD_PRELOAD": f"{one}:{other}"}
    blank = Path(tmp_path, "a b.so")
    blank.touch()
    with pytest.raises(UserError, match="without blanks"):
        user_variables([f"LD_PRELOAD={blank}"])


@pytest.mark.parametrize(("limit", "usable"), [
    ("SSE41", ()), ("avx2", ("avx2",)), ("AVX2_VNNI", ("avx2", "avx_vnni")), ("AVX512_CORE", ("avx2", "avx512f")),
    ("AVX512_CORE_VNNI", ("avx2", "avx512f", "avx512_vnni")), ("AVX512_CORE_AMX", ZEN_5),
])  # fmt: skip
def test_a_limit_leaves_some_of_the_cpus_instruction_sets(limit, usable) -> None:
    assert usable_instruction_sets(ZEN_5, {"ONEDNN_MAX_CPU_ISA": limit}) == usable
    assert usable_instruction_sets(ZEN_5, {}) == ZEN_5


@pytest.mark.parametrize(("kernel", "level"), [
    ("matmul gemm:jit f32", None), ("convolution jit:sse41 f32", "SSE41"), ("convolution jit:avx2 fp32", "AVX2"),
    ("convolution brg_conv_fwd:avx2_vnni int8", "AVX2_VNNI"), ("Convolution brgconv_avx512_f32 fp32", "AVX512_CORE"),
    ("convolution brgconv:avx512_core_bf16 bf16", "AVX512_CORE_BF16"), ("aten::amax", None),
    ("Convolution brgconv_avx512_amx_bf16 bf16", "AVX512_CORE_AMX"), ("matmul brg:avx10_1_512 f32", "AVX512_CORE_FP16"),
])  # fmt: skip
def test_a_kernel_beyond_the_limit_is_named_and_one_within_it_is_not(kernel, level) -> None:
    for limit in ONEDNN_LEVELS:
        beyond = level is not None and list(ONEDNN_LEVELS).index(level) > list(ONEDNN_LEVELS).index(limit)
        fault = limit_fault({"ONEDNN_MAX_CPU_ISA": limit}, [kernel], {})
        assert fault == (f"{kernel} ran, which ONEDNN_MAX_CPU_ISA={limit} forbids" if beyond else None)
    assert limit_fault({}, [kernel], {}) is None


def test_pytorch_must_read_back_the_limit_of_its_own_kernels() -> None:
    given = {"ATEN_CPU_CAPABILITY": "avx2"}
    assert limit_fault(given, [], {"isa": "AVX2"}) is None
    assert limit_fault(given, [], {"isa": "AVX512"}) == (
        "instruction set read back as avx512, asked for ATEN_CPU_CAPABILITY=avx2"
    )
    assert limit_fault(given, [], {}) is None
    assert limit_fault({"ATEN_CPU_CAPABILITY": "avx512_bf16"}, [], {"isa": "AVX512"}) is None
