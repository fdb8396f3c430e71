"""The sections on the validity of a run: checks, what ran, method, machine, versions."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.analysis import gates
from bench.analysis.latency import (
    AT_REST,
    MAX_WIDENING,
    MIN_REST_SHARE,
    MIN_WINDOW_CALLS,
    REST_FACTOR,
    WINDOW_NS,
)
from bench.analysis.run import foreign_share, harness_share, idle_share, rounds_of_blocks, timed_share
from bench.analysis.speedups import speedups
from bench.analysis.training import trained_arms
from bench.console import duration
from bench.journal import broken_link
from bench.records import Evidence, Glue, Resume, TrainedEpoch
from bench.report.document import Bullets, Code, Column, Paragraph, Section, Strong, table, text_table
from bench.report.text import assigned, counted, interval_text, number, number2, percent, variable_lines
from bench.suite.arms import LATENCY, LOADGEN, THROUGHPUT, TRAINING
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.analysis.run import Run
    from bench.records import Proof
    from bench.report.document import Element, Text


AT_REST_METHOD = f"""Latency at rest: the samples of a slice are divided into windows of {WINDOW_NS // 1_000_000} ms, or
    longer ones with at least {MIN_WINDOW_CALLS} calls. The mean of a window's calls counts. Two arms are compared in
    equally many windows per slice. A window is at rest if it is at most {percent(REST_FACTOR - 1, 0)} slower than
    the fastest tenth of its arm in the run. The median over arms gives the share of time at rest, the same for all arms
    of a block. An arm's latency is the median of its fastest windows of that share. Blocks with a share below
    {percent(MIN_REST_SHARE, 0)} are left out. If those are more than half, or too many to claim a speedup, the case is
    reported as the machine was. The same holds if its intervals at rest, on average over all comparisons, are more
    than {MAX_WIDENING} times as wide as those of the machine as it was."""


WORDS = (
    ("Stack", "a framework with its extensions, in an environment of its own; vanilla or stock stacks have none"),
    ("Variant", "one documented way to use a stack, such as eager or compile"),
    ("Arm", "what is measured: a variant at one precision, with one set of environment settings"),
    ("Baseline", "the vanilla arm that an arm is compared with"),
    ("Case", "the work: model, scenario, batch size and threads"),
    ("Slice, round, block", """a slice is a short turn of one arm; in a round each arm has one; a block is one fresh
        process per arm, all alive together, and many rounds. A block gives one ratio: n counts blocks, not calls"""),
    ("A/A", """a baseline compared with a second copy of itself: what the harness reports where there is no difference.
        The A/A band reaches as far from 1 as the interval of this comparison"""),
    ("Primary", """the comparison of an arm that the suite named before measuring, with its fastest baseline. All others
        are exploratory: of many comparisons, some differ by chance"""),
    ("Matched", "both environments have the same versions of all packages that both have"),
    ("At rest, as it was", """speedups by the fastest speed of the machine, and by all of its speeds; see How it was
        measured"""),
    ("Undisturbed", "without the rounds in which the hypervisor or other processes took much of the arms' cores"),
    ("Gate", """a condition for any claim: right outputs, accuracy, proof of what ran. If one is not met, a result
        is WITHHELD"""),
    ("FASTER, SLOWER", """the interval excludes 1, a second kind of interval agrees, and the difference is larger than
        the A/A band"""),
    ("EQUIVALENT", "both 90 % intervals lie within 2 % of 1"),
    ("UNRESOLVED", "none of these; the footnote says why"),
)  # fmt: skip


def words(run: Run) -> Section:
    """Return what the words of the report mean, those about training only if there is any."""
    shown = [(name, meaning) for name, meaning in WORDS if not (run.info.suite.training and name.startswith("At rest"))]
    return Section("Words", (Bullets(tuple((Strong(name), f": {meaning}.") for name, meaning in shown)),))


def checks(run: Run) -> Section:
    return Section("Checks", (text_table(("Check", "Result", "Expected"), _check_rows(run)),))


def _check_rows(run: Run) -> Iterator[tuple[str, str, str]]:
    training = run.info.suite.training
    for row in speedups(run):
        if row.pair.arm.replica:
            result = row.verdict.reason
            if row.speedup is not None:
                result = f"{row.speedup:.3f}" + (f" ({interval_text(row.interval)})" if row.interval else "")
            yield f"A/A ratio, {row.pair.case.label}", result, "1, inside the interval"
    yield from _machine_rows(run)
    yield "CPU time of all idle workers while an arm was measured", percent(idle_share(run)), "about 0 % of one core"
    yield "CPU time of the orchestrator meanwhile", percent(harness_share(run)), "about 0 % of one core"
    if run.overhead is not None or not training:
        result = "not measured"
        if run.overhead is not None:
            calls = f"{len(run.overhead.samples_ns):,}"
            result = f"{number((run.overhead_ns or 0) / 1e3)} µs (median of {calls} calls)"
        wanted = f"at most {gates.MAX_OVERHEAD_NS / 1e3:g} µs"
        yield "Harness overhead per timed call (null backend)", result, wanted
    for glue in run.of(Glue):
        wanted = f"at most {gates.MAX_GLUE_NS / 1e3:g} µs"
        yield "LoadGen's own time per query (null backend)", f"{number(glue.interval_ns / 1e3)} µs", wanted
    rounds = {(turn.case, turn.block, turn.round) for turns in run.turns.values() for turn in turns}
    yield (
        f"""Disturbed rounds: over {percent(gates.MAX_TAKEN_SHARE, 0)} of the cores' time stolen or throttled, or over
        {percent(gates.MAX_FOREIGN_SHARE, 0)} used by other processes""",
        f"{len(run.disturbed_rounds)} of {len(rounds)}",
        "0; the column Undisturbed rounds only leaves them out",
    )
    if training:
        waits = [row.wait_share for case in run.cases for row in trained_arms(run, case)]
        wanted = "under 2 %, with augmentation under 10 %"
        yield "Longest wait for data of an arm, as a share of its epochs", percent(max(waits, default=None)), wanted
    warm_ups = [check for checks in run.checks.values() for check in checks]
    if warm_ups:
        unsteady = sum(not check.steady for check in warm_ups)
        yield "Processes that were timed before they reached a steady state", f"{unsteady} of {len(warm_ups)}", "0"
    yield "Changes of run.json or the journal after they were written", _changes(run), "none"
    if resumed := len(run.of(Resume)):
        yield "Starts after an interruption", str(resumed), "0; the block that was under way was measured again"
    end = f"{run.end.status} after {duration(run.end.wall_ns / 1e9)}" if run.end else "killed"
    yield "How the run ended", end, "complete"


def _changes(run: Run) -> str:
    try:
        return broken_link(run.folder) or "none"
    except UserError:
        return "not recorded"


def _machine_rows(run: Run) -> Iterator[tuple[str, str, str]]:
    timed = timed_share(run)
    yield (
        "Timed turns, as a share of the blocks' wall time",
        "not recorded" if timed is None else percent(timed),
        "the larger, the less time passes between turns",
    )
    for case in run.cases:
        if (share := run.rest_share(case)) is not None:
            at_rest = run.blocks_at_rest(case).values()
            result = f"{percent(share)}; {sum(at_rest)} of {counted(len(at_rest), 'block')}"
            yield f"Time in which the machine was at rest, {case.label}", result, "about 100 %; all blocks"
        protocol = run.info.protocol
        if protocol.scatter and case.scenario == LATENCY and (rounds := rounds_of_blocks(run, case)):
            fewest, most = min(rounds), max(rounds)
            result = str(most) if fewest == most else f"{fewest} to {most}, median {median(rounds):g}"
            yield f"Rounds of a block, {case.label}", result, f"{protocol.rounds}; there are more where slices scatter"
    if (foreign := foreign_share(run)) is not None:
        yield "CPU time of other processes while an arm was measured", percent(foreign), "about 0 % of the arms' cores"


KERNELS_TITLE = "Versions and kernels of every arm"


def what_ran(run: Run) -> Section:
    def kernels(record: Proof | Evidence) -> str:
        # The framework's plain operators run in every variant, so they do not distinguish any.
        named = [
            kernel
            for kernel in record.kernels
            if "conv" in kernel or not (kernel.startswith("aten::") or "unknown" in kernel)
        ]
        return ", ".join(named) or "the stack names no kernels"

    identity: list[Column[Any]] = [
        Column("", lambda record: record.arm, "Arm", numeric=False),
        Column("", lambda record: record.case, "Case", numeric=False),
        Column("", lambda record: record.precision, "Precision", numeric=False),
        Column("", lambda record: record.threads, "Threads"),
    ]
    proof: list[Column[Any]] = [
        Column("", lambda record: record.images, "Images"),
        Column("", lambda record: record.max_abs_logit_diff, "Max logit difference from the oracle", number2),
        Column("", lambda record: record.agreement, "Labels equal to the oracle's", percent),
    ]
    versions_column: Column[Any] = Column(
        "",
        lambda record: ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Versions and settings",
        numeric=False,
    )
    labels = {case.id: case.label for case in run.cases}

    def facets(record: Proof | Evidence) -> dict[str, str]:
        return {"stack": record.arm.partition("/")[0], "case": labels.get(record.case, record.case)}

    last: Column[Any] = Column("", kernels, "Kernels", numeric=False)
    training = {case.id for case in run.cases if case.scenario == TRAINING}
    first: dict[tuple[str, str], Evidence] = {}
    for evidence in run.of(Evidence):
        if evidence.case in training:
            first.setdefault((evidence.arm, evidence.case), evidence)
    blocks: list[Element] = []
    if first:
        explanation = """Read back from the first process of each arm after its last epoch. Every other process must
            pass the same check."""
        trained = table(first.values(), [*identity, last], folded="Kernels of every arm", facets=facets)
        blocks += [Paragraph(explanation), trained]
    if run.proofs:
        explanation = """Read back from each arm in a separate pass that is never timed. Every process of every block
            must pass the same check after its last timed slice. The oracle computes the logits in plain NumPy.
            Accuracies are of all test images, which each arm predicts on one case of a model. A hint about the
            precision, as OpenVINO has it, is that of the layers which are not quantised."""
        proven = table(run.proofs.values(), [*identity, *proof], folded="Outputs of every arm", facets=facets)
        named = table(run.proofs.values(), [*identity[:2], versions_column, last], folded=KERNELS_TITLE, facets=facets)
        blocks += [Paragraph(explanation), proven, named]
    return Section("What ran", tuple(blocks))


def _turns_of_epochs(run: Run) -> str:
    most = max((len(epoch.parts_ns) for epoch in run.of(TrainedEpoch) if epoch.round), default=1)
    if most <= 1:
        return "A turn is an epoch."
    return f"""The first epoch of each is one turn. The others are divided into up to {most} turns, because a shared
        machine keeps a speed for seconds."""


def method(run: Run) -> Section:
    info, training = run.info, run.info.suite.training
    drawn = f"The schedule (seed {info.seed}) was randomised and stored before the first measurement."
    items: list[Text]
    if training:
        items = [
            f"""Timed: an epoch, from before the images are shuffled until the last step's loss is known. This
            includes the batches (standardised and augmented by threads in advance), forward pass, backward pass and
            the optimiser's step. An epoch has all {training.images} images; its last batch is the remainder. The
            evaluation on the test images is not timed.""",
            f"""A block is one fresh process per arm. All of them run throughout the block and take turns in
            shuffled, balanced order. {_turns_of_epochs(run)} All arms of a block start with the same weights and get
            the same batches, pixel by pixel. Each of the first {counted(training.seeds, "block")} has its own seed and
            trains for all {training.epochs} epochs. The others train a warm-up epoch and one timed epoch. {drawn}""",
        ]
        ratio = "epoch times"
    elif any(case.scenario in LOADGEN for case in run.cases):
        items = [
            """Timed: each query, by LoadGen, from when it is issued (for server, when it is due) until its logits are
            in host memory. The images are in host memory before, as batches of the stack's own tensors. A batch that a
            server puts together is copied within the time.""",
            f"""A block is one fresh process per arm. Each does one LoadGen run, one after the other in random order.
            {drawn}""",
        ]
        ratio = "times that count in the scenario"
    else:
        slice_ns = info.protocol.slice_ns
        longer_ns = info.protocol.throughput_slice_ns or slice_ns
        lengths_ns = {longer_ns if case.scenario == THROUGHPUT else slice_ns for case in run.cases}
        lengths = " or ".join(str(length_ns // 1_000_000) for length_ns in sorted(lengths_ns))
        items = [
            """Timed: each call, from a batch in host memory, as the stack's own tensor, to its logits in host memory.
            Each call gets another batch.""",
            f"""A block is one fresh process per arm (for throughput, one per core). All of them run throughout the
            block and take turns of {lengths} ms, called slices, in shuffled, balanced
            order. {drawn}""",
        ]
        ratio = """slices' latencies (for the latency scenario the mean of a slice's samples without the fastest and
            the slowest tenth, for throughput the time per batch of all workers together)"""
    as_it_was = ""
    if any(case.scenario == LATENCY for case in run.cases):
        as_it_was = " as the machine was"
        if run.rule == AT_REST:
            items += [AT_REST_METHOD]
    confidence = run.preset.confidence
    level = f"at {percent(confidence)}" if confidence else "(none with this preset)"
    items += [
        f"""Ratio of a block{as_it_was}: the median over its rounds of the ratio of the {ratio}. Estimate:
        Hodges-Lehmann over blocks. Interval: exact Wilcoxon signed-rank {level}.""",
        """FASTER, SLOWER: the interval excludes 1, the sign-test interval agrees, and the estimate lies outside
        the A/A band, which reaches as far from 1 as the A/A interval. EQUIVALENT: both 90 % intervals lie within 2 %
        of 1. UNRESOLVED: neither. WITHHELD: a gate tripped, that is, a condition for any claim is not met.""",
    ]
    if info.variables:
        items += [f"{line}." for line in variable_lines(info.variables)]
    if info.machine.nice is not None:
        items.append(f"Measured processes and their sessions ran at nice {info.machine.nice}, the same for all arms.")
    return Section("How it was measured", (Bullets(tuple(items)), _settings(run)))


def _settings(run: Run) -> Section:
    explanation = (
        """The environment variables of each named set, the same for all arms that use it, vanilla or Intel. Throughput
        workers run with one thread each, or as many as were chosen. Values joined by 'or' differ by thread count. Some
        variants set more variables: """,
        Code("bench list"),
        " shows them.",
    )
    settings = run.info.settings
    common = set.intersection(*(set(variables.items()) for variables in settings.values())) if settings else set()
    sets = {"all of them": dict(item for item in next(iter(settings.values()), {}).items() if item in common)}
    for name, variables in settings.items():
        sets[f"{name} also"] = dict(item for item in variables.items() if item not in common)
    sets["in blocks also"] = run.info.restart_settings
    rows = [(name, assigned(variables)) for name, variables in sets.items() if variables]
    return Section("Environment settings", (Paragraph(explanation), text_table(("Settings", "Variables"), rows)))


def commands(run: Run) -> Section:
    """Return how this run was made, and what else can be done with it."""
    made = Code(" ".join(run.info.command))
    commit = (", commit ", Code(run.info.git_commit)) if run.info.git_commit else ()
    seeded = () if "--seed" in run.info.command else (" ", Code(f"--seed {run.info.seed}"), " repeats its schedule.")
    return Section(
        "Commands",
        (
            Bullets(
                (
                    ("This run: ", made, *commit, ".", *seeded),
                    ("This report again, from the journal: ", Code("python -m bench report FOLDER"), "."),
                    ("Whether files were changed later: ", Code("python -m bench verify FOLDER"), "."),
                    ("This run and another: ", Code("python -m bench compare FOLDER OTHER"), "."),
                )
            ),
        ),
    )


def machine(run: Run) -> Section:
    facts = {name.replace("_", " "): value for name, value in asdict(run.info.machine).items() if value is not None}
    rows = [(name.removesuffix(" bytes"), _shown(name, value)) for name, value in facts.items()]
    return Section("Machine", (text_table(("Property", "Value"), rows),))


def _shown(name: str, value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(value)
        case int() if name.endswith(" bytes"):
            return f"{number(value / 1e9)} GB"
        case float():
            return number(value)
        case _:
            return str(value)


def versions(run: Run) -> Section:
    """Return every package of every environment; those with the same version everywhere last."""
    environments = run.info.environments
    names = {"python"} | {name for environment in environments.values() for name in environment.packages}
    by_name = {
        name: [
            environment.python if name == "python" else environment.packages.get(name, "")
            for environment in environments.values()
        ]
        for name in names
    }
    rows = [(name, *by_name[name]) for name in sorted(names, key=lambda name: (len(set(by_name[name])) == 1, name))]
    packages = text_table(("Package", *environments), rows, folded="Every package of every environment")
    return Section("Versions", (packages,))
