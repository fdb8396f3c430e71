"""Compare our latency with that of a framework's own tool, alternating on the same model.

OpenVINO's benchmark_app fills its input once and times inside the runtime. Timed in the same way, both must agree. The
latency at our own boundary, which includes a new batch in and the logits out, is printed as well. PyTorch's
torch.utils.benchmark times a module in the same process. `tox -e benchmark-openvino` and `benchmark-pytorch` run them.
"""

from __future__ import annotations

import gc
import math
import re
import subprocess
import sys
import tempfile
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.protocol import InferenceSpec
from backends.registry import open_backend
from bench.analysis.stats import hodges_lehmann, wilcoxon_interval
from bench.clock import now_ns
from bench.machine.facts import usable_cores
from bench.worker.timing import time_slice
from models import data
from models.data import standardise
from models.weights import checkpoint_path, load_weights
from models.zoo import CNN_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH_SIZES, ROUNDS, SECONDS = (1, 64), 8, 4
# PyTorch's turns are short: both tools see the same drifts of the machine.
SHORT_ROUNDS, TURN_NS = 100, 50_000_000


def ratio_text(ratios: Sequence[float]) -> str:
    """Return the centre of log ratios as a ratio, with its exact 95 % interval."""
    interval = wilcoxon_interval(ratios, 0.95)
    bounds = f" ({math.exp(interval.low):.3f} to {math.exp(interval.high):.3f})" if interval else ""
    return f"ratio {math.exp(hodges_lehmann(ratios)):.3f}{bounds}"


def app_us(ir: Path, batch_size: int, threads: int) -> float:
    """Return the median latency that the app reports."""
    command = [Path(sys.executable).with_name("benchmark_app"), "-m", ir, "-d", "CPU", "-api", "sync", "-hint", "none"]
    command += ["-nstreams", "1", "-nthreads", threads, "-nireq", "1", "-infer_precision", "f32", "-t", SECONDS]
    command += ["-shape", f"[{batch_size},1,28,28]"]
    printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    median_line = re.search(r"Median:\s+([\d.]+) (us|ms)", printed)
    if median_line is None:
        raise SystemExit(f"benchmark_app printed no median: {printed[-500:]}")
    return float(median_line[1]) * {"us": 1, "ms": 1e3}[median_line[2]]


def runtime_us(compiled: Any, batch: Any) -> float:
    """Return the median latency inside the runtime, of a request that keeps its input."""
    import openvino as ov

    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(batch))
    latencies, start = [], now_ns()
    while now_ns() - start < SECONDS * 1e9:
        request.infer()
        latencies.append(request.latency * 1e3)
    return median(latencies)


def ours_us(session: Any, batch: Any) -> float:
    """Return the median latency at our own boundary."""
    latencies, start = [], now_ns()
    while now_ns() - start < SECONDS * 1e9:
        before = now_ns()
        session.step(batch)
        latencies.append((now_ns() - before) / 1e3)
    return median(latencies)


def compare_openvino(batch_size: int, folder: Path) -> None:
    import openvino as ov

    from backends.openvino import convert, disable_telemetry, read_ir

    disable_telemetry()

    threads = usable_cores()
    images = standardise(CNN_SMALL, data.load("synthetic").test_images[:batch_size])
    weights = load_weights(checkpoint_path(CNN_SMALL), CNN_SMALL)
    spec = InferenceSpec(CNN_SMALL, weights, "latency", "fp32", batch_size, images, folder)
    convert("pytorch", spec, folder)
    session = open_backend("openvino", threads).inference(spec)
    options = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(read_ir(ov.Core(), spec), "CPU", options)
    batch = session.prepare(images)
    turns: dict[str, Callable[[], float]] = {
        "app": lambda: app_us(folder / "model.xml", batch_size, threads),
        "runtime": lambda: runtime_us(compiled, batch),
    }
    rounds = []
    for number in range(ROUNDS):
        times = {name: turns[name]() for name in sorted(turns, reverse=bool(number % 2))}
        rounds.append((times["app"], times["runtime"], ours_us(session, batch)))
    ratios = [math.log(app / runtime) for app, runtime, _ in rounds]
    app, runtime, own = (float(np.median(column)) for column in zip(*rounds, strict=True))
    print(
        f"batch {batch_size}, {threads} threads: benchmark_app {app:.1f} us, ours at its boundary {runtime:.1f} us: "
        f"{ratio_text(ratios)}; at our boundary {own:.1f} us",
        flush=True,
    )


def compare_pytorch(batch_size: int) -> None:
    import torch
    from torch.utils.benchmark import Timer

    from backends.pytorch.layers import as_nchw, build_module

    threads = usable_cores()
    torch.set_num_threads(threads)
    module = build_module(CNN_SMALL, load_weights(checkpoint_path(CNN_SMALL), CNN_SMALL)).eval()
    images = standardise(CNN_SMALL, data.load("synthetic").test_images[:batch_size])
    batch = as_nchw(images, torch.channels_last)
    timer = Timer("module(batch)", globals={"module": module, "batch": batch}, num_threads=threads)

    def ours() -> float:
        return median(time_slice(module, repeat(batch), TURN_NS, 5).samples_ns) / 1e3

    def theirs() -> float:
        return timer.blocked_autorange(min_run_time=TURN_NS / 1e9).median * 1e6

    # As a worker does, because our loop collects garbage before each turn.
    gc.freeze()
    with torch.inference_mode():
        ours(), theirs()
        # Each round has both orders.
        rounds = [(ours(), theirs(), theirs(), ours()) for _ in range(SHORT_ROUNDS)]
    ratios = [math.log(second * third / first / last) / 2 for first, second, third, last in rounds]
    own, other = median(turns[0] for turns in rounds), median(turns[1] for turns in rounds)
    print(
        f"batch {batch_size}, {threads} threads: torch.utils.benchmark {other:.1f} us, ours {own:.1f} us: "
        f"{ratio_text(ratios)}",
        flush=True,
    )


def main(stack: str) -> None:
    for batch_size in BATCH_SIZES:
        if stack == "pytorch":
            compare_pytorch(batch_size)
            continue
        with tempfile.TemporaryDirectory() as folder:
            compare_openvino(batch_size, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1])
