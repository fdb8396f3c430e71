"""What two runs have in common, and what differs between them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Protocol

from bench.suite.arms import TRAINING
from bench.suite.environments import OWN_DISTRIBUTION
from models.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from bench.analysis.run import Run
    from bench.run_info import RunInfo
    from bench.suite.arms import Arm, Case

# Two runs that differ in one of these were measured on different machines.
MACHINE_FIELDS = (
    "cpu", "vendor", "family", "model", "cores", "usable_cores", "threads_per_core", "quota_cores", "instruction_sets",
)  # fmt: skip
# The state of a machine, which may explain a difference.
STATE_FIELDS = ("nice", "governor", "turbo", "kernel", "transparent_huge_pages", "container", "memory_bytes")
# Of the packages that differ in an environment, so many are listed.
MOST_PACKAGES = 8
# The version of a package that an environment lacks.
ABSENT = "none"


class Described(Protocol):
    """A run as far as its description and the name of its data tell."""

    @property
    def info(self) -> RunInfo: ...

    @property
    def data(self) -> str: ...


def require_new(path: Path, run: Run, seen: dict[tuple[str, int], Path]) -> None:
    """Raise UserError if a run is among those `seen`, as itself, by a link or as a copy; else add it to them."""
    identity = run.info.started, run.info.seed
    if identity in seen:
        raise UserError(f"{path}: is the same run as {seen[identity]}; name different runs")
    seen[identity] = path


def common_cases(before: Run, after: Run) -> list[tuple[Case, Case]]:
    """Return the cases of both runs with the same model, scenario, batch size and number of threads.

    On different machines the usual numbers of threads correspond to each other.
    """
    moved = bool(other_machine(before, after))

    def work(run: Run, case: Case) -> tuple[str, str, int, int]:
        return case.model, case.scenario, case.batch_size, case.threads if moved else run.threads(case)

    later = {work(after, case): case for case in after.cases}
    return [(case, later[work(before, case)]) for case in before.cases if work(before, case) in later]


def common_arms(before: Run, after: Run, cases: tuple[Case, Case]) -> list[Arm]:
    """Return the arms that were to take part in a case of both runs, without the A/A arms."""
    later = after.participants(cases[1])
    return [arm for arm in before.participants(cases[0]) if arm in later and not arm.replica]


def other_machine(before: Described, after: Described) -> list[str]:
    """Return what tells that the runs were measured on different machines, and their numbers of threads."""
    lines = list(_differences(vars(before.info.machine), vars(after.info.machine), MACHINE_FIELDS))
    return [*lines, *_differences(vars(before.info), vars(after.info), ("threads",))] if lines else []


def notes(before: Described, after: Described) -> list[str]:
    """Return what differs between two runs and may explain a difference of their times."""
    lines = list(_differences(vars(before.info.machine), vars(after.info.machine), STATE_FIELDS))
    lines += _differences(vars(before.info), vars(after.info), ("preset", "git_commit"))
    if before.info.data.digest != after.info.data.digest:
        lines.append(f"data: {before.data} / {after.data}")
    for names, packages in _changes_by_environments(before, after).items():
        # What both have in other versions comes before what only one has.
        ordered = sorted(packages, key=lambda changed: ABSENT in changed[1])
        shown = ", ".join(f"{package} {one} / {other}" for package, (one, other) in ordered[:MOST_PACKAGES])
        more = f" and {len(ordered) - MOST_PACKAGES} more" if len(ordered) > MOST_PACKAGES else ""
        lines.append(f"{'environment' if len(names) == 1 else 'environments'} {', '.join(names)}: {shown}{more}")
    return sorted(lines)


def _changes_by_environments(
    before: Described, after: Described
) -> dict[tuple[str, ...], list[tuple[str, tuple[str, str]]]]:
    """Return the packages that changed, by the environments of both runs in which they changed alike."""
    names = defaultdict[tuple[str, tuple[str, str]], list[str]](list)
    for name in sorted(before.info.environments.keys() & after.info.environments.keys()):
        for changed in changed_packages(before, after, name):
            names[changed].append(name)
    groups = defaultdict[tuple[str, ...], list[tuple[str, tuple[str, str]]]](list)
    for changed, environments in sorted(names.items()):
        groups[tuple(environments)].append(changed)
    return groups


def changed_packages(before: Described, after: Described, environment: str) -> list[tuple[str, tuple[str, str]]]:
    one, other = before.info.environments[environment], after.info.environments[environment]
    ours, theirs = {**one.packages, "python": one.python}, {**other.packages, "python": other.python}
    names = sorted((ours.keys() | theirs.keys()) - {OWN_DISTRIBUTION})
    pairs = ((name, (ours.get(name, ABSENT), theirs.get(name, ABSENT))) for name in names)
    return [(name, versions) for name, versions in pairs if len(set(versions)) > 1]


def mismatch(before: Run, after: Run, cases: tuple[Case, Case], arm: Arm) -> str:
    """Return why the times of an arm in two runs are not comparable, or nothing."""
    model, scenario = cases[0].model, cases[0].scenario
    lines = list[str]()
    if scenario == TRAINING:
        lines += _differences(vars(before.info.suite), vars(after.info.suite), ("training",), show=False)
    else:
        works = [run.info.models[model].spec for run in (before, after)]
        lines += [f"another network {model}"] if works[0] != works[1] else []
        names = "slice_ns", "throughput_slice_ns", "lead_in", "lead_in_ns"
        lines += _differences(vars(before.info.protocol), vars(after.info.protocol), names)
        lines += _differences(vars(before.info.suite), vars(after.info.suite), ("wait",))
    settings = [run.info.settings.get(arm.settings, {}) for run in (before, after)]
    lines += [f"other variables of the settings {arm.settings}"] if settings[0] != settings[1] else []
    variants = [(run.info.stacks[arm.stack].variants or {}).get(arm.variant) for run in (before, after)]
    if variants[0] and variants[1] and variants[0].settings != variants[1].settings:
        lines.append(f"other variables of the variant {arm.variant}")
    return "; ".join(lines)


def is_unchanged(before: Run, after: Run, cases: tuple[Case, Case], arm: Arm) -> bool:
    """Return whether an arm ran the same software in both runs, by its proofs or else by its environment.

    On different machines the same software has other kernels.
    """
    proofs = before.proof(arm, cases[0]), after.proof(arm, cases[1])
    if proofs[0] and proofs[1] and not other_machine(before, after):
        return proofs[0].versions == proofs[1].versions and proofs[0].kernels == proofs[1].kernels
    environments = {run.info.stacks[arm.stack].environment for run in (before, after)}
    known = before.info.environments.keys() & after.info.environments.keys()
    return len(environments) == 1 and environments <= known and not changed_packages(before, after, environments.pop())


def _differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], fields: Iterable[str], *, show: bool = True
) -> Iterator[str]:
    for field in fields:
        if ours[field] != theirs[field]:
            name = field.replace("_", " ")
            yield f"{name}: {_shown(ours[field])} / {_shown(theirs[field])}" if show else f"another {name}"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
