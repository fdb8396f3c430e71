"""Write the report of a run of 1,000 arms and 64 blocks with a million samples; print its time and peak memory."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.clock import now_ns
from bench.engine.describe import Origin, describe_run
from bench.journal import JOURNAL
from bench.records import PRODUCT, TRAFFIC, Conditions, End, Evidence, Parity, Proof, Reference, Roof, Slice, to_line
from bench.run_info import ModelInfo, PairInfo, Work, write_run
from bench.suite.arms import Arm, Case
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from bench.suite.selftest import equal_suite
from models import data

ARMS, BLOCKS, SAMPLES, IMAGES = 1000, 64, 16, 10_000
CASE = Case("cnn-small", "latency", 1)
WORK = Work(multiply_adds=1_218_048, parameters=206_922, input_elements=784, output_elements=10)
KERNELS = ("aten::conv2d", "brgconv:avx512_core fp32", "jit_avx512_common")
CONDITIONS = Conditions(0, 0, 0, 0, 0.0, None)


def write(folder: Path) -> int:
    """Write the run; return the size of its journal in bytes."""
    generator = random.Random(0)
    baseline, *others = originals = [Arm("oracle", f"v{index}") for index in range(ARMS - 1)]
    arms = (baseline, replace(baseline, replica=True), *others)
    plan = make_plan(equal_suite(Arm("oracle", "numpy"), [1]), PRESETS["publish"], 1, 1)
    info = replace(
        describe_run(plan, data.load("synthetic"), {}, Origin(("bench",), "", None)),
        arms=arms,
        cases=(CASE,),
        pairs=tuple(PairInfo(arm.id, baseline.id, CASE.id, candidate=False) for arm in arms[1:]),
        lineups={CASE.id: tuple(arm.id for arm in arms)},
        models={"cnn-small": ModelInfo("", "", trained=True, work=WORK)},
    )
    write_run(folder, info)
    labels = "".join(generator.choices("0123456789", k=IMAGES))
    records = [
        Reference("cnn-small", labels, labels),
        Roof(PRODUCT, "oracle", "fp32", 1, 2048, 2 * 2048**3, (1,), (10**8,)),
        Roof(TRAFFIC, "oracle", "", 1, 1 << 20, 1 << 20, (100,), (10**6,)),
    ]
    records += [
        Proof(arm.id, CASE.id, "fp32", 1, KERNELS, {"numpy": "1"}, IMAGES, labels, 0.9, 1e-6, 1.0, 1, 1)
        for arm in originals
    ]
    records += [Parity(arm.id, baseline.id, CASE.id, 1e-6, 1.0) for arm in arms[1:]]
    for block in range(1, BLOCKS + 1):
        for position, arm in enumerate(arms):
            samples = tuple(int(generator.lognormvariate(11.5, 0.05)) for _ in range(SAMPLES))
            counts, wall_ns = (SAMPLES,), sum(samples)
            records += [
                Slice(arm.id, CASE.id, block, 0, position, samples, counts, (wall_ns,), wall_ns, 0, CONDITIONS),
                Evidence(arm.id, CASE.id, block, "fp32", 1, KERNELS),
            ]
    with (folder / JOURNAL).open("w", encoding="utf-8") as journal:
        journal.writelines(to_line(record) + "\n" for record in (*records, End("complete", 1)))
    return (folder / JOURNAL).stat().st_size


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        size = write(Path(name))
        start = now_ns()
        subprocess.run([sys.executable, "-m", "bench", "report", name], check=True, stdout=subprocess.DEVNULL)
        seconds = (now_ns() - start) / 1e9
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    samples = ARMS * BLOCKS * SAMPLES
    print(
        f"{ARMS} arms, {BLOCKS} blocks, {samples:,} samples, journal {size / 1e6:.0f} MB: "
        f"report in {seconds:.1f} s, peak {peak / 1e6:.0f} MB"
    )


if __name__ == "__main__":
    main()
