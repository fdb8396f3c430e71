"""oneDNN's verbose output, in the formats of the versions that the stacks ship."""

import os

import pytest

from backends import onednn

LINES_3_2 = """\
onednn_verbose,info,oneDNN v3.2.1 (commit N/A)
onednn_verbose,info,cpu,runtime:threadpool,nthr:2
onednn_verbose,info,cpu,isa:Intel AVX-512 with Intel DL Boost and bfloat16 support
onednn_verbose,exec,cpu,reorder,jit:uni,undef,src_f32::blocked:cdba::f0 dst_f32::blocked:Acdb16a::f0,,,16x1x3x3,0.01
onednn_verbose,exec,cpu,convolution,brgconv:avx512_core,forward_training,src_f32::blocked:acdb::f0 wei_f32:a:b,,x,0.2
onednn_verbose,exec,cpu,gemm_api,,undef,src_f32::blocked:ab:f0 wei_f32::blocked:ab:f0 dst_f32::b,,,64x1568:1568x128,17.7
""".splitlines()
LINES_3_7 = """\
onednn_verbose,v1,info,oneDNN v3.7.1 (commit 8d263e6)
onednn_verbose,v1,info,cpu,runtime:OpenMP,nthr:2
onednn_verbose,v1,info,cpu,isa:Intel AVX-512 with float16, Intel DL Boost and bfloat16 support and Intel AMX support
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core_vnni,forward_inference,src:u8::blocked:acdb,x
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core_bf16,undef,src:bf16::blocked:ab::f0 wei:bf16,,,,0.1
onednn_verbose,v1,primitive,exec,cpu,eltwise,jit:avx512_core,forward_inference,data:f32,,,,0.1
something else
""".splitlines()


def test_only_primitives_that_multiply_are_kernels() -> None:
    assert onednn.kernels(LINES_3_2) == {
        onednn.Kernel("convolution", "brgconv:avx512_core", "fp32"), onednn.Kernel("gemm_api", "", "fp32"),
    }  # fmt: skip
    assert onednn.precision(onednn.kernels(LINES_3_2)) == "fp32"


def test_different_precisions_are_joined() -> None:
    assert onednn.precision(onednn.kernels(LINES_3_7)) == "bf16+int8"
    assert onednn.precision([]) == ""


@pytest.mark.parametrize(
    ("lines", "version", "runtime", "isa"),
    [
        (LINES_3_2, "v3.2.1", "threadpool", "Intel DL Boost and bfloat16 support"),
        (LINES_3_7, "v3.7.1", "OpenMP", "float16, Intel DL Boost and bfloat16 support and Intel AMX support"),
    ],
)
def test_the_header_contains_version_runtime_and_instruction_set(lines, version, runtime, isa) -> None:
    assert onednn.information(lines) == {
        "onednn": version, "onednn runtime": runtime, "onednn isa": f"Intel AVX-512 with {isa}",
    }  # fmt: skip


def test_output_from_c_is_captured_until_the_end_of_the_block(capfd) -> None:
    with onednn.standard_output() as lines:
        os.write(1, b"from C\n")
    os.write(1, b"later\n")
    assert lines == ["from C"]
    assert capfd.readouterr().out == "later\n"
