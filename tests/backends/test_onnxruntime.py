"""What ONNX Runtime is asked for, and what is read from its profile; neither needs the framework."""

from backends.onnxruntime import executed_kernels, session_settings


def test_the_threads_of_the_pool_get_all_cores_but_the_first_counted_from_one() -> None:
    assert session_settings([2, 3, 5])["session.intra_op_thread_affinities"] == "4;6"


def test_a_single_thread_and_threads_without_cores_have_no_places() -> None:
    for cores in (None, [2]):
        assert session_settings(cores) == {"session.intra_op.spin_duration_us": "1000"}


def test_kernels_are_the_nodes_of_a_profile_with_the_precision_of_their_first_input() -> None:
    node = {"op_name": "QLinearConv", "provider": "CPU", "input_type_shape": [{"uint8": [1, 2]}, {"float": [1]}]}
    events = [
        {"cat": "Session", "args": {}},
        {"cat": "Node", "args": {}},
        {"cat": "Node", "args": node},
        {"cat": "Node", "args": {"op_name": "Gemm", "provider": "CPU", "input_type_shape": [{"float": [1, 2]}]}},
        {"cat": "Node", "args": {"op_name": "Constant", "provider": "CPU", "input_type_shape": []}},
    ]
    assert executed_kernels(events) == {
        ("QLinearConv", "CPU", "int8"), ("Gemm", "CPU", "fp32"), ("Constant", "CPU", ""),
    }  # fmt: skip
