"""Make the report of a run of 1,000 arms and 64 blocks, a million samples in all; print its time and peak memory."""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.analysis.selftest import ORACLE, equal_suite
from bench.clock import now_ns
from bench.engine.describe import Origin, describe_run
from bench.journal import JOURNAL
from bench.records import PRODUCT, TRAFFIC, Conditions, End, Evidence, Parity, Proof, Reference, Roof, Slice, to_line
from bench.run_info import ModelInfo, PairInfo, Work, write_run
from bench.suite.arms import Arm, Case
from bench.suite.plan import make_plan
from bench.suite.schedule import PRESETS
from models import data

ARMS, BLOCKS, SAMPLES, IMAGES = 1000, 64, 16, 10_000
CASE = Case("cnn-small", "latency", 1)
WORK = Work(multiply_adds=1_218_048, parameters=206_922, input_elements=784, output_elements=10)
KERNELS = ("aten::conv2d", "brgconv:avx512_core fp32", "jit_avx512_common")


def write(folder: Path) -> int:
    """Write the run; return the bytes of its journal."""
    chance = random.Random(0)
    arms = [Arm("oracle", f"v{index}") for index in range(ARMS - 1)]
    every = [arms[0], Arm("oracle", "v0", replica=True), *arms[1:]]
    plan = make_plan(equal_suite(Arm(ORACLE, "numpy"), [1]), PRESETS["publish"], 1, 1)
    info = describe_run(plan, data.load("synthetic"), {}, Origin(("bench",), "", None))
    info = replace(
        info,
        arms=tuple(every),
        cases=(CASE,),
        pairs=tuple(PairInfo(arm.id, arms[0].id, CASE.id, candidate=False) for arm in every[1:]),
        lineups={CASE.id: tuple(arm.id for arm in every)},
        models={CASE.model: ModelInfo("", "", trained=True, work=WORK)},
    )
    write_run(folder, info)
    labels = "".join(chance.choices("0123456789", k=IMAGES))
    with (folder / JOURNAL).open("w", encoding="utf-8") as journal:
        lines = [
            Reference("cnn-small", labels, labels),
            Roof(PRODUCT, "oracle", "fp32", 1, 2048, 2 * 2048**3, (1,), (10**8,)),
            Roof(TRAFFIC, "oracle", "", 1, 1 << 20, 1 << 20, (100,), (10**6,)),
        ]
        for arm in arms:
            lines += [Proof(arm.id, CASE.id, "fp32", 1, KERNELS, {"numpy": "1"}, IMAGES, labels, 0.9, 1e-6, 1.0, 1, 1)]
        lines += [Parity(arm.id, arms[0].id, CASE.id, 1e-6, 1.0) for arm in every[1:]]
        journal.writelines(to_line(line) + "\n" for line in lines)
        for block in range(1, BLOCKS + 1):
            for place, arm in enumerate(every):
                journal.write(to_line(_slice(arm, block, place, chance)) + "\n")
                journal.write(to_line(Evidence(arm.id, CASE.id, block, "fp32", 1, KERNELS)) + "\n")
        journal.write(to_line(End("complete", 1)) + "\n")
    return (folder / JOURNAL).stat().st_size


def _slice(arm: Arm, block: int, place: int, chance: random.Random) -> Slice:
    samples = tuple(int(chance.lognormvariate(11.5, 0.05)) for _ in range(SAMPLES))
    return Slice(arm=arm.id, case=CASE.id, block=block, round=0, position=place, samples_ns=samples,
                 counts=(SAMPLES,), walls_ns=(sum(samples),), cpu_ns=sum(samples), involuntary_switches=0,
                 conditions=Conditions(0, 0, 0, 0, load=0.0, frequency_hz=None))  # fmt: skip


def main() -> None:
    """Write, report, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write(folder)
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
