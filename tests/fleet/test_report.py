"""The report over the machines of a fleet."""

import csv
import re
from dataclasses import replace

from bench.analysis.gates import SKIPPED, Verdict
from bench.commands.fleet import report_fleet
from bench.commands.folders import refusing_damage
from bench.console import BrokenPipeSafeConsole
from bench.fleet.campaign import Fleet
from bench.fleet.driver import NodeOrder
from bench.fleet.report import fleet_document, fleet_headlines, node_results, pooled
from bench.fleet.state import read_events, write_fleet
from bench.machine.facts import Machine
from bench.report.writers import to_markdown
from tests.analysis.recorded_run import inference_run
from tests.fleet.fake import INFO, FakeDriver

ZEN, ICE = Machine("EPYC", 2, 2, "AuthenticAMD", 0x1A, 2), Machine("Xeon", 2, 2, "GenuineIntel", 6, 0x6A)


def measured(tmp_path, faults, machines=None):
    driver = FakeDriver(tmp_path / "runs", faults)
    driver.folder.mkdir()
    for number, (name, machine) in enumerate((machines or {}).items()):
        run = inference_run(driver.folder / name, jit=100_000 - 2_000 * number, seed=number)
        run.describe(machine=machine, seed=number).write()
    folder = tmp_path / "f"
    folder.mkdir()
    write_fleet(folder, INFO)
    Fleet(driver, INFO, folder, lambda _: None, lambda node: NodeOrder(node.name, "/r", ())).attend(list_s=0.05)
    return folder


def rows_of(folder):
    results = node_results(folder, list(read_events(folder).values()), refusing_damage)
    return results, [each for result in results for each in result.speedups if each.row.primary]


def test_machines_stand_side_by_side_by_microarchitecture(tmp_path) -> None:
    folder = measured(tmp_path, {"a": "", "b": "", "i": "", "gone": "dies"}, {"a": ZEN, "b": ZEN, "i": ICE})
    assert report_fleet(folder, BrokenPipeSafeConsole()) == 1
    text = (folder / "report.md").read_text()
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == ["Ice Lake", "Zen 5"]
    assert re.search(r"\| a \| 1\.\d{3} \(1\.\d{3} to 1\.\d{3}\) \(FASTER, over pytorch compile\) \|", text)
    assert "- gone: lost: no route to host." in text
    assert "mean over machines" not in text
    assert "This fleet has 3 machines." in text
    assert "- i: cpu: EPYC / Xeon" in text
    with (folder / "speedups.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["node"] for row in rows} == {"a", "b", "i"}
    assert all(float(row["ci_low"]) < float(row["speedup"]) < float(row["ci_high"]) for row in rows)
    with (folder / "nodes.csv").open() as stream:
        assert {row["node"]: row["status"] for row in csv.DictReader(stream)} == {
            "a": "complete", "b": "complete", "gone": "lost", "i": "complete",
        }  # fmt: skip
    assert "gone: lost: no route to host" in (folder / "report.html").read_text()


def test_a_comparison_without_figures_has_its_reason_in_the_answer(tmp_path) -> None:
    results, _ = rows_of(measured(tmp_path, {"a": "", "b": ""}, {"a": ZEN, "b": ZEN}))
    skipped = [
        replace(
            result,
            speedups=tuple(
                replace(each, row=replace(each.row, verdict=Verdict(SKIPPED, f"no AMX on {result.event.node}")))
                for each in result.speedups
            ),
        )
        for result in results
    ]
    _, line = fleet_headlines(skipped)
    assert line.endswith(": SKIPPED on 2 (no AMX on a, and 1 other reason).")


def test_a_number_over_machines_needs_five_of_them(tmp_path) -> None:
    folder = measured(tmp_path, dict.fromkeys("abcde", ""), dict.fromkeys("abcde", ZEN))
    results, rows = rows_of(folder)
    assert pooled(rows[:4]) is None
    mean = pooled(rows)
    assert mean
    assert mean.machines == 5
    assert mean.interval.low < mean.speedup < mean.interval.high
    assert "mean over machines" in to_markdown(fleet_document(INFO, results))


def test_nodes_of_one_machine_count_once(tmp_path) -> None:
    folder = measured(tmp_path, dict.fromkeys("abcde", "twin"), dict.fromkeys("abcde", ZEN))
    results, rows = rows_of(folder)
    assert pooled(rows) is None
    assert "a, b, c, d, e run on one machine: they count as one." in fleet_document(INFO, results).warnings
    assert pooled([replace(each, machine=each.node) for each in rows])


def test_a_run_that_can_not_be_read_is_a_row(tmp_path) -> None:
    folder = measured(tmp_path, {"a": "", "b": ""})
    journal = folder / "nodes" / "a" / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"kind":"proof"', '"kind":"poof"'))
    results, _ = rows_of(folder)
    assert [result.event.status for result in results] == ["damaged", "complete"]
    assert "is not a record" in results[0].event.reason
