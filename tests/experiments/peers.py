"""Compare this harness with other tools: the same pairs of arms, the same wall time, with and without a busy core.

`tox -e benchmark-peers -- [--budget SECONDS] [--repeats N]` prints the error of each tool's ratio, and writes it as CSV
and plot. The true ratio is 1 for an arm and itself, and 1.05 for an arm and itself slowed down by 5 %. A false alarm is
a difference that a tool claims between identical arms: by its own test if it has one, else any above 2 %. Only this
harness raises the priority of what it measures. Where the user may do that, it is also measured without.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from noise import ARM, loaded
from subject import BATCH_SIZE

from bench.clock import now_ns
from bench.machine.facts import usable_cores
from bench.machine.resources import allowed_nice, nice_of
from bench.suite.variables import environment_variables

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
OURS, EVEN, QUIET, LOADED = "this harness", "this harness, usual priority", "quiet", "busy core"
CONDITIONS, TRUTHS = (QUIET, LOADED), (0.0, 0.05)
COLOURS = {QUIET: "#0072B2", LOADED: "#D55E00"}
STYLE = {
    # The same outcomes give the same file.
    "svg.hashsalt": "bench",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "figure.constrained_layout.use": True,
}
NOTEWORTHY = math.log(1.02)
# Of the plot, in percent.
TICKS = (-10, -1, 0, 1, 10)
# The calls of a process that hyperfine times, and about how long they take.
CALLS, CALLS_S = 1500, 4.5
# About how long a process takes to import the framework and warm up.
START_S = 2.6


@dataclass(frozen=True)
class Outcome:
    """The result of a tool: slow time / base time, whether it claims a difference, and the wall time."""

    tool: str
    condition: str
    delay: float
    repeat: int
    ratio: float
    claims: bool
    wall_s: float

    @property
    def error(self) -> float:
        return math.log(self.ratio / (1 + self.delay))


def call(*command: object) -> str:
    """Run a command with the environment settings of the arms; return its output."""
    variables = environment_variables("bound", usable_cores())
    environment = os.environ | variables | {"PYTHONPATH": str(HERE)}
    # Otherwise each start would include compiling.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:] or done.stdout[-2000:]}")
    return done.stdout


def exceeds_2_percent(ratio: float) -> bool:
    return abs(math.log(ratio)) > NOTEWORTHY


def naive(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """Two loops with a stopwatch, one after the other."""
    call(sys.executable, HERE / "subject.py", "--delay", delay, "--seconds", (budget - START_S) / 2,
         "--output", folder / "ratio")  # fmt: skip
    ratio = float((folder / "ratio").read_text())
    return ratio, exceeds_2_percent(ratio)


def torch_benchmark(delay: float, budget: float, _: Path) -> tuple[float, bool]:
    """torch.utils.benchmark: two blocked autoranges; ratio of the medians."""
    code = (
        "import sys; from subject import work; from torch.utils.benchmark import Timer\n"
        "seconds, threads = float(sys.argv[1]), int(sys.argv[2])\n"
        "for delay in map(float, sys.argv[3:]):\n"
        "    timer = Timer('f()', globals={'f': work(delay)}, num_threads=threads)\n"
        "    print(timer.blocked_autorange(min_run_time=seconds).median)\n"
    )
    printed = call(sys.executable, "-c", code, (budget - START_S) / 2, usable_cores(), 0.0, delay)
    base, slow = map(float, printed.split()[-2:])
    return slow / base, exceeds_2_percent(slow / base)


def pytest_benchmark(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """pytest-benchmark: two tests in one session; ratio of the medians."""
    (folder / "test_pair.py").write_text(
        "from subject import work\n"
        f"def test_base(benchmark): benchmark(work(0.0))\ndef test_slow(benchmark): benchmark(work({delay}))\n",
        encoding="utf-8",
    )
    output = folder / "benchmark.json"
    call(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull,
         f"--benchmark-max-time={(budget - START_S) / 2}", f"--benchmark-json={output}", folder)  # fmt: skip
    medians = {test["name"]: test["stats"]["median"] for test in json.loads(output.read_text())["benchmarks"]}
    ratio = medians["test_slow"] / medians["test_base"]
    return ratio, exceeds_2_percent(ratio)


def pyperf(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """pyperf: a set of processes for one arm, then for the other; means, and its own significance test."""
    script = folder / "runner.py"
    script.write_text(
        "import pyperf\nfrom subject import work\n"
        "def add(command, args): command.extend(['--delay', str(args.delay)])\n"
        "runner = pyperf.Runner(add_cmdline_args=add)\n"
        "runner.argparser.add_argument('--delay', type=float)\n"
        "delay = runner.parse_args().delay\nruns = runner.args.worker\n"
        "runner.bench_func('step', work(delay) if runs else (lambda: None))\n",
        encoding="utf-8",
    )
    processes = max(2, round(budget / 2 / (START_S + 0.3)) - 1)
    files = [folder / f"{name}.json" for name in ("base", "slow")]
    for slowdown, file in zip((0.0, delay), files, strict=True):
        call(sys.executable, script, "--delay", slowdown, "-o", file, "-p", processes, "--inherit-environ",
             "PYTHONPATH," + ",".join(environment_variables("bound", usable_cores())))  # fmt: skip
    import pyperf as library

    base, slow = (library.Benchmark.load(str(file)).mean() for file in files)
    printed = call(sys.executable, "-m", "pyperf", "compare_to", *files)
    return slow / base, "not significant" not in printed


def hyperfine(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """hyperfine: whole processes, one command after the other; ratio of the means, less that of a start alone."""
    commands = [f"{sys.executable} {HERE / 'subject.py'} --calls {calls} --delay {slowdown}"
                for calls, slowdown in ((1, 0.0), (CALLS, 0.0), (CALLS, delay))]  # fmt: skip
    runs = max(2, round(budget / (3 * START_S + 2 * CALLS_S)))
    call("hyperfine", "-N", "--runs", runs, "--export-json", folder / "hyperfine.json", *commands)
    start, base, slow = (command["mean"] for command in json.loads((folder / "hyperfine.json").read_text())["results"])
    ratio = (slow - start) / (base - start)
    return ratio, exceeds_2_percent(ratio)


def ours(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """Measure with this harness; the time includes its proof pass and its A/A arm."""
    return _measured(delay, budget, folder)


def ours_even(delay: float, budget: float, folder: Path) -> tuple[float, bool]:
    """Measure with this harness, its processes at normal priority."""
    return _measured(delay, budget, folder, "setpriv", "--bounding-set=-sys_nice")


def _measured(delay: float, budget: float, folder: Path, *prefix: str) -> tuple[float, bool]:
    printed = call(*prefix, sys.executable, HERE / "pair.py", "--delay", delay, "--budget", budget, "--folder", folder)
    ratio, claims = printed.split()[-2:]
    return float(ratio), claims == "True"


TOOLS: dict[str, Callable[[float, float, Path], tuple[float, bool]]] = {
    OURS: ours,
    EVEN: ours_even,
    "pytest-benchmark": pytest_benchmark,
    "pyperf compare_to": pyperf,
    "hyperfine": hyperfine,
    "torch.utils.benchmark": torch_benchmark,
    "naive loop": naive,
}


def available() -> dict[str, Callable[[float, float, Path], tuple[float, bool]]]:
    """Return the tools that are installed; normal priority only where this harness would raise it."""
    lacking = {EVEN} if allowed_nice() == nice_of(os.getpid()) else set()
    if not shutil.which("hyperfine"):
        print("hyperfine is not installed: install it with the system's package manager to compare it")
        lacking.add("hyperfine")
    return {name: tool for name, tool in TOOLS.items() if name not in lacking}


def compare(budget: float, repeats: int, output: Path) -> list[Outcome]:
    """Measure with every tool in turn; each result is stored at once, and stored results are not measured again."""
    file = output / "peers.csv"
    outcomes = stored(file)
    known = {(outcome.repeat, outcome.condition, outcome.delay, outcome.tool) for outcome in outcomes}
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Outcome)])
        if not outcomes:
            writer.writeheader()
        for key in product(range(repeats), CONDITIONS, TRUTHS, available()):
            # On a quiet machine priority makes no difference.
            if key not in known and not (key[1] == QUIET and key[3] == EVEN):
                outcome = _one(*key, budget)
                outcomes.append(outcome)
                writer.writerow(asdict(outcome))
                stream.flush()
                print(f"{outcome.tool}, {outcome.condition}, truth {1 + outcome.delay}: "
                      f"{outcome.ratio:.4f} in {outcome.wall_s:.0f} s", flush=True)  # fmt: skip
    return outcomes


def stored(file: Path) -> list[Outcome]:
    """Return the results of an earlier call."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [
            Outcome(row["tool"], row["condition"], float(row["delay"]), int(row["repeat"]), float(row["ratio"]),
                    row["claims"] == "True", float(row["wall_s"]))
            for row in csv.DictReader(stream)
        ]  # fmt: skip


def _one(repeat: int, condition: str, delay: float, name: str, budget: float) -> Outcome:
    with tempfile.TemporaryDirectory() as folder, loaded() if condition == LOADED else nullcontext():
        start = now_ns()
        ratio, claims = TOOLS[name](delay, budget, Path(folder))
        return Outcome(name, condition, delay, repeat, ratio, claims, (now_ns() - start) / 1e9)


def table(outcomes: list[Outcome]) -> str:
    """Return the root-mean-square errors and false alarms as Markdown."""
    lines = [
        "| Tool | Condition | Error at 1 | Error at 1.05 | Both, RMS | False alarms | Detects 5 % | Wall time, s |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for condition, tool in product(CONDITIONS, TOOLS):
        own = [outcome for outcome in outcomes if (outcome.tool, outcome.condition) == (tool, condition)]
        if own:
            lines.append(_row(tool, condition, own))
    return "\n".join([*lines, "", *(_lead(outcomes, condition) for condition in CONDITIONS)])


def _row(tool: str, condition: str, own: list[Outcome]) -> str:
    equal, slowed = ([outcome for outcome in own if bool(outcome.delay) == slow] for slow in (False, True))
    alarms, detected = (f"{sum(outcome.claims for outcome in group)} of {len(group)}" for group in (equal, slowed))
    errors = " | ".join(f"{rms(group):.2%}" for group in (equal, slowed, own) if group)
    wall_s = mean(outcome.wall_s for outcome in own)
    return f"| {tool} | {condition} | {errors} | {alarms} | {detected} | {wall_s:.0f} |"


def rms(outcomes: list[Outcome]) -> float:
    return math.sqrt(mean(outcome.error**2 for outcome in outcomes))


def _lead(outcomes: list[Outcome], condition: str) -> str:
    """Return the error of the best other tool, and that of this harness."""
    errors = {
        tool: rms(own)
        for tool in TOOLS
        if (own := [outcome for outcome in outcomes if (outcome.tool, outcome.condition) == (tool, condition)])
    }
    own = [f"{errors.pop(tool):.2%}" for tool in (OURS, EVEN) if tool in errors]
    best = min(errors, key=lambda tool: errors[tool])
    others = f"the best other tool is {best}, with an error of {errors[best]:.2%}"
    return f"{condition.capitalize()}: {others}; this harness has {', at usual priority '.join(own)}."


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Plot the error of every reported ratio."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 4.2))
        panels = figure.subplots(1, 2, sharey=True, sharex=True)
        for axes, delay in zip(panels, TRUTHS, strict=True):
            for place, tool in enumerate(TOOLS):
                for shift, condition, marker in ((-0.12, QUIET, "o"), (0.12, LOADED, "x")):
                    own = [outcome.error * 100 for outcome in outcomes
                           if (outcome.tool, outcome.condition, outcome.delay) == (tool, condition, delay)]  # fmt: skip
                    axes.plot(own, [place + shift] * len(own), marker, ms=4, alpha=0.8,
                              color=COLOURS[condition])  # fmt: skip
            axes.axvline(0, color="black", lw=0.8)
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xticks(TICKS, [f"{tick:+}" if tick else "0" for tick in TICKS])
            axes.set(title=f"truth {1 + delay}", xlabel="error of the reported ratio, %")
        panels[0].set(yticks=range(len(TOOLS)), yticklabels=list(TOOLS))
        panels[0].invert_yaxis()
        panels[1].plot([], [], "o", color=COLOURS[QUIET], label=QUIET)
        panels[1].plot([], [], "x", color=COLOURS[LOADED], label=LOADED)
        panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--budget", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/peers-here"), help="results in it are kept")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{ARM.label}, batch {BATCH_SIZE}, {usable_cores()} threads, {arguments.budget:g} s for each pair")
    outcomes = compare(arguments.budget, arguments.repeats, arguments.output)
    print(table(outcomes))
    (arguments.output / "peers.md").write_text(table(outcomes) + "\n", encoding="utf-8")
    plot(outcomes, arguments.output / "peers.svg")


if __name__ == "__main__":
    main()
