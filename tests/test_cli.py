"""The command line from end to end, with the toy stacks."""

import csv
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from statistics import median

import psutil
import pytest
from scipy.stats import binomtest

from bench.analysis.run import Run
from bench.cli import fail, first_interrupt_only
from bench.journal import broken_link, read_journal
from bench.records import End, Resume, Slice, watched_ns
from bench.suite.schedule import PRESETS
from conftest import SMALL
from tests.command_line import HANG_S, run_bench, shortened

SUITE = """\
name = "toys"
summary = "faults <script>alert(1)</script> | of all kinds"
scenarios = ["latency"]
models = ["cnn-small"]
batch_sizes = [64]
precisions = ["fp32", "int8"]
arms = ["oracle/numpy/fp32+plain", "oracle/numpy", "toy/good", "toy/wrong", "toy/nan", "toy/dies", "toy/bf16",
        "toy/unproven", "toy/unsupported", "toy/rounded", "toy/exact", "toy/inaccurate", "toy/foreign", "toy/converted",
        "toy/unconvertible", "toy/queued", "oracle/numpy/fp32+iomp"]
baselines = ["oracle/numpy"]
primary = ["toy/good"]
[[ladders]]
name = "toy"
steps = [["as it is", "oracle/numpy+plain"], ["settings", "oracle/numpy"], ["toy", "toy/good"],
         ["int8", "toy/rounded/int8"], ["what is not there", "toy/dies"]]
"""
IDENTITY = ["suite", "model", "scenario", "batch_size", "precision", "stack", "variant"]
CONTRACT = [
    *IDENTITY, "baseline_stack", "baseline_variant", "speedup", "ci_low", "ci_high", "blocks", "verdict", "accuracy",
    "baseline_accuracy", "max_abs_logit_diff", "data",
]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Measure all toys once; return the folder of the run and the finished process."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "toys.toml").write_text(SUITE)
    (folder / "scratch").mkdir()
    options = ("--preset", "smoke", "--data", "synthetic", "--name", "r", "--seed", "5")
    # Workers run in the folder for temporary files.
    done = run_bench(folder, "run", "--suite", "./toys.toml", *options, TMPDIR=str(folder / "scratch"))
    return folder / "results" / "r", done


def rows(folder: Path, name: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table by variant, followed by what is not the default."""
    with (folder / name).open() as stream:
        table = list(csv.DictReader(stream))
    return {_key(row): row for row in table}


def _key(row: dict[str, str]) -> str:
    precision = "" if row["precision"] == "fp32" else f"/{row['precision']}"
    settings = "" if row["settings"] == "bound" else f"+{row['settings']}"
    return f"{row['variant']}{precision}{settings}{'@' if row.get('replica') == 'True' else ''}"


def test_a_run_with_failed_arms_exits_with_1_and_names_them(measured) -> None:
    _, done = measured
    assert done.returncode == 1, done.stderr
    assert done.stderr == ""
    assert "toy dies, cnn-small, latency, batch 64: failed: " in done.stdout
    assert "exited with status 7; last line of its log: the toy is broken" in done.stdout
    assert "report: results/r/report.html" in done.stdout


def test_a_run_writes_the_files_of_the_contract(measured) -> None:
    folder, _ = measured
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {"run.json", "journal.jsonl", "arms.csv", "speedups.csv", "report.md", "report.html"}
    assert names >= {"plots/speedups.svg", "plots/latencies.svg", "plots/blocks.svg", "logs/toy-good.log"}
    assert (folder.parent / "latest").resolve() == folder.resolve()
    assert not [name for name in names if "partial" in name]


def test_every_arm_has_a_row_with_its_reason(measured) -> None:
    arms = rows(measured[0], "arms.csv")
    reasons = {
        "wrong": "", "nan": "all finite: False", "dies": "status 7", "bf16": "precision read back as bf16",
        "unproven": "nothing special ran", "unsupported": "the toy can't do that", "good": "",
        "numpy/int8": "oracle has no int8", "exact/int8": "int8 was not active", "rounded/int8": "",
        "foreign": "has imported torch as well", "unconvertible": "the toy can't be converted", "converted": "",
        "numpy+iomp": "settings iomp need lib/libiomp5.so",
    }  # fmt: skip
    assert {name: reason in arms[name]["reason"] for name, reason in reasons.items()} == dict.fromkeys(reasons, True)
    statuses = {name: row["status"] for name, row in arms.items()}
    # An asynchronous variant has no latency.
    assert "queued" not in statuses
    assert {statuses[name] for name in ("unsupported", "numpy/int8", "numpy+iomp")} == {"skipped"}
    assert statuses["converted"] == statuses["rounded/int8"] == statuses["inaccurate/int8"] == "measured"
    assert {statuses[name] for name in ("exact/int8", "foreign", "unconvertible")} == {"failed"}
    assert statuses["good"] == statuses["numpy"] == statuses["numpy@"] == "measured"
    assert {statuses[name] for name in ("nan", "dies", "bf16", "unproven", "wrong")} == {"failed"}


def test_the_speedups_have_the_columns_of_the_contract_and_verdicts(measured) -> None:
    speedups = rows(measured[0], "speedups.csv")
    assert list(speedups["good"])[: len(CONTRACT)] == CONTRACT
    verdicts = {name: row["verdict"] for name, row in speedups.items()}
    # The preset smoke claims nothing.
    assert verdicts["good"] == verdicts["numpy"] == "UNRESOLVED"
    assert verdicts["unsupported"] == "SKIPPED"
    assert verdicts["wrong"] in ("WITHHELD", "FAILED")
    assert float(speedups["good"]["max_abs_logit_diff"]) == 0
    assert speedups["good"]["data"] == "synthetic"
    # Under load one of the two may not be at rest.
    assert speedups["good"]["blocks"] in ("1", "2")
    assert rows(measured[0], "arms.csv")["good"]["blocks"] == "2"


def test_speedups_compare_equal_precisions_and_settings_only(measured) -> None:
    with (measured[0] / "speedups.csv").open() as stream:
        compared = {(row["stack"], _key(row), row["baseline_variant"]) for row in csv.DictReader(stream)}
    assert ("toy", "good", "numpy") in compared
    # The oracle has no int8, and no other arm has the plain settings.
    assert not [row for row in compared if "int8" in row[1] or "plain" in row[1]]


def test_accuracy_is_reported_with_speed_across_precisions_and_gated(measured) -> None:
    with (measured[0] / "tradeoffs.csv").open() as stream:
        tradeoffs = {f"{row['variant']}/{row['precision']}": row for row in csv.DictReader(stream)}
    assert float(tradeoffs["rounded/int8"]["relative_accuracy"]) > 0.99
    assert tradeoffs["rounded/int8"]["fault"] == ""
    assert float(tradeoffs["inaccurate/int8"]["relative_accuracy"]) < 0.95
    assert "less than 99% of fp32's" in tradeoffs["inaccurate/int8"]["fault"]
    for name in ("inaccurate/int8", "rounded/int8"):
        lost, won, p = (float(tradeoffs[name][column]) for column in ("lost", "won", "mcnemar_p"))
        assert p == pytest.approx(binomtest(int(lost), int(lost + won)).pvalue if lost + won else 1, rel=1e-5)
    assert float(tradeoffs["inaccurate/int8"]["lost"]) > float(tradeoffs["inaccurate/int8"]["won"]) > 0


def test_the_ladder_shows_the_ratio_of_each_step_and_names_missing_ones(measured) -> None:
    with (measured[0] / "attribution.csv").open() as stream:
        steps = {row["step"]: row for row in csv.DictReader(stream)}
    assert list(steps) == ["as it is", "settings", "toy", "int8"]
    assert steps["as it is"]["step_ratio"] == ""
    assert all(float(steps[step]["step_ratio"]) > 0 for step in ("settings", "toy", "int8"))
    # Both are estimated from the same slices. A busy machine may leave one arm's at rest too few: then the whole
    # ladder follows the other rule, so the comparison is by the ladder's.
    rule = steps["toy"]["rule"].replace("-", "_")
    assert steps["toy"]["step_ratio"] == rows(measured[0], "speedups.csv")["good"][f"{rule}_ratio"]
    assert "Not measured: what is not there." in (measured[0] / "report.md").read_text()


def test_synthetic_data_is_warned_of_everywhere(measured) -> None:
    folder, done = measured
    # Before the run, in the title of the table, and after it.
    assert done.stdout.count("SYNTHETIC DATA") == 3
    assert "SYNTHETIC DATA" in (folder / "report.md").read_text()
    assert "SYNTHETIC DATA" in (folder / "report.html").read_text()


def test_the_page_is_self_contained_and_escapes_its_content(measured) -> None:
    page = (measured[0] / "report.html").read_text()
    assert page.count("<script") == 1
    assert "&lt;script&gt;alert(1)" in page
    plots = list((measured[0] / "plots").glob("*.svg"))
    # A plot that has another scale is drawn for that one, too.
    drawn = len(plots) + page.count("<template")
    assert page.count('class="wide"') == page.count('class="narrow"') == drawn > len(plots) > 6
    assert not re.search(r'(src|href)="(?!#)', page)
    assert not re.search(r"@import|url\((?!#)", page)


def test_the_schedule_is_stored_and_followed(measured) -> None:
    folder, _ = measured
    description = json.loads((folder / "run.json").read_text())
    assert description["seed"] == 5
    assert description["data"]["name"] == "synthetic"
    assert description["environments"]["harness"]["packages"]["numpy"]
    slices = [record for record in read_journal(folder) if isinstance(record, Slice)]
    for block in description["schedule"]:
        for planned in block["rounds"]:
            done = [
                record.arm for record in slices if (record.block, record.round) == (block["number"], planned["number"])
            ]
            assert done == [arm for arm in planned["order"] if arm in {record.arm for record in slices}]


def test_every_sample_is_kept_raw(measured) -> None:
    for record in read_journal(measured[0]):
        if isinstance(record, Slice):
            assert record.samples_ns
            assert sum(record.samples_ns) <= record.wall_ns
            assert record.wall_ns >= PRESETS["smoke"].slice_ns


def test_idle_workers_and_the_orchestrator_use_almost_no_cpu_time(measured) -> None:
    """In the typical slice: a disturbance lasts for some slices, a worker that never sleeps for most of them."""
    slices = [record for record in read_journal(measured[0]) if isinstance(record, Slice)]
    assert median(record.conditions.idle_cpu_ns / watched_ns(record) for record in slices) < 0.02
    assert median(record.conditions.harness_cpu_ns / watched_ns(record) for record in slices) < 0.05


def test_the_report_can_be_made_again_from_the_journal_alone(measured) -> None:
    folder, _ = measured
    before = {name: (folder / name).read_text() for name in ("arms.csv", "speedups.csv", "report.md", "report.html")}
    for name in before:
        (folder / name).unlink()
    assert run_bench(folder.parent.parent, "report", "results/r").returncode == 1
    assert {name: (folder / name).read_text() for name in before} == before


def test_no_worker_is_left(measured) -> None:
    folder = measured[0].parents[1]
    assert not [process for process in psutil.process_iter(["cwd"]) if str(folder) in (process.info["cwd"] or "")]


@pytest.mark.parametrize("moment", ["proof", "slice"])
def test_an_interrupt_leaves_a_complete_journal_a_report_and_no_worker(tmp_path, moment) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    options = ("--preset", "standard", "--data", "synthetic", "--name", "r")
    command = shortened(tmp_path, "run", "--suite", "./toys.toml", *options)
    process = subprocess.Popen(**command, stdout=subprocess.PIPE, text=True)
    journal = tmp_path / "results" / "r" / "journal.jsonl"
    deadline = time.monotonic() + HANG_S
    while not (journal.exists() and f'"kind":"{moment}"' in journal.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM if moment == "proof" else signal.SIGINT)
    time.sleep(0.1)
    # An impatient user sends a second one.
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert "the run did not end" in output
    assert isinstance(read_journal(journal.parent)[-1], End)
    assert Run(journal.parent).end.status == "interrupted"
    assert (journal.parent / "report.html").exists()
    assert not (journal.parent.parent / "latest").exists()
    # A killed process ends soon, not at once.
    _, left = psutil.wait_procs(children, timeout=60)
    assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_run_goes_on(tmp_path) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    arguments = ["run", "--suite", "./toys.toml", "--preset", "smoke", "--data", "synthetic"]
    process = subprocess.Popen(**shortened(tmp_path, *arguments, "--name", "r"))
    journal = tmp_path / "results" / "r" / "journal.jsonl"
    deadline = time.monotonic() + HANG_S
    while not (journal.exists() and '"kind":"blockend"' in journal.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait(HANG_S)
    before = [record for record in read_journal(journal.parent) if isinstance(record, Slice)]

    def go_on(*options: str) -> subprocess.CompletedProcess[str]:
        command = shortened(tmp_path, *arguments, *options)
        return subprocess.run(**command, capture_output=True, text=True, check=False, timeout=HANG_S)

    shown = go_on("--batch-size", "32", "--resume", "r")
    assert (shown.returncode, "can't go on: cases would not be the same; repeat" in shown.stderr) == (2, True)
    shown = go_on("--resume", "r")
    assert shown.returncode == 0, shown.stderr
    run = Run(journal.parent)
    assert [(turn.block, turn.case, turn.round, turn.arm) for turn in run.of(Slice)] == [
        (block.number, turn.case, turn.number, arm)
        for block in run.info.schedule
        for turn in block.rounds
        for arm in turn.order
    ]
    kept = [turn for turn in before if turn.block == 1]
    assert run.of(Slice)[: len(kept)] == kept
    assert len(run.of(Resume)) == 1
    assert "Starts after an interruption" in (journal.parent / "report.md").read_text()
    assert broken_link(journal.parent) is None
    for resume in (["--resume", "r"], ["--resume", "other"], ["--resume", "r", "--name", "s"]):
        assert go_on(*resume).returncode == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["run", "--suite", "speed"], "unknown suite 'speed'; allowed: claims-inference, claims-training"),
        (["run", "--stack", "jax"], "unknown stack 'jax'; allowed: pupil, pytorch, tensorflow, ipex"),
        (["run", "--model", "resnet"], "unknown model 'resnet'; allowed: cnn-small"),
        (["run", "--preset", "fast"], "unknown preset 'fast'; allowed: smoke, quick, standard, publish"),
        (["run", "--precision", "fp8"], "unknown precision 'fp8'; allowed: fp32, bf16, int8"),
        (["run", "--environments", "conda"], "unknown environment 'conda'; allowed: ipex, itex, latest, onnxruntime"),
        (["run", "--batch-size", "1,x"], "--batch-size 1,x: allowed: whole numbers"),
        (["run", "--batch-size", "0"], "--batch-size 0: allowed: 1 to"),
        (["run", "--threads", "9999"], "--threads 9999: allowed: 1 to"),
        (["run", "--stack", ","], "--stack ',': allowed: names, separated by commas"),
        (["run", "--batch-size", "1,,2"], "--batch-size '1,,2': allowed: whole numbers, separated by commas"),
        (["run", "--threads", "9" * 5000], "bench: --threads 999"),
        (["run", "--environments", "vanilla", "--stack", "ipex"], "--stack ipex: is not in the environments vanilla"),
        (["run", "--suite", "./toys.toml", "--results", "odd"], "odd/latest: is not a link to a run"),
        (["run", "--suite", "./toys.toml", "--data", ""], "--data '': allowed: auto"),
        (["run", "--fast"], "No such option: --fast"),
        (["run", "--threads", "x"], "--threads x: allowed: whole numbers and best, separated by commas"),
        (["run", "--threads", "best,-1"], "--threads -1: allowed: 1 to"),
        (["run", "--suite", "training", "--threads", "best"], "--threads best: suite training trains; allowed: whole"),
        (["run", "--seed", "-2"], "--seed -2: allowed"),
        (["fly"], "No such command 'fly'"),
        (["run", "--seed", "99999999999"], "--seed 99999999999: allowed"),
        (["run", "--suite", "./nowhere.toml"], "nowhere.toml: can't be read (No such file or directory)"),
        (["run", "--suite", "./toys.toml", "--name", "../up"], "--name ../up: allowed"),
        (["run", "--suite", "./toys.toml", "--name", "latest"], "--name latest: allowed"),
        (["run", "--suite", "./toys.toml", "--results", "toys.toml"], "toys.toml: exists already"),
        (["run", "--suite", "./toys.toml", "--results", "/proc/r"], "can't be made"),
        (["run", "--suite", "./toys.toml", "--data", "nowhere"], "nowhere: not a folder"),
        (["run"], "no stack can be measured: environment vanilla does not exist or is damaged; make it"),
        (["run", "--stack", "ipex"], "environment ipex does not exist or is damaged; make it: tox -r -e ipex --notest"),
        (["run", "--suite", "./toys.toml", "--preset", "fast", "--seed", "-1"], "unknown preset 'fast'"),
        (["run", "--suite", "./toys.toml", "--threads", "0", "--precision", "fp8"], "unknown precision 'fp8'"),
        (["train", "--recipe", "adam", "--epochs", "0", "--stack", "oracle"], "--stack oracle: does not train"),
        (["claims", "--preset", "fast"], "unknown preset 'fast'; allowed: smoke, quick, standard, publish"),
        (["claims", "--preset", "smoke"], "--preset smoke: claims nothing; allowed: quick, standard, publish"),
        (["claims", "--only-read", "--results", "nowhere"], "nowhere: no such folder"),
        (["bundle", "b", "--data", "nowhere"], "nowhere/train-images-idx3-ubyte.gz: can't be read"),
        (["report", "nowhere"], "nowhere/run.json: not there"),
        (["report", "--rule", "fast"], "unknown rule 'fast'; allowed: at-rest, as-it-was"),
        (["models", "resnet"], "unknown model 'resnet'; allowed: cnn-small"),
        (["train", "--recipe", "none", "--output", "x.safetensors"], "unknown recipe 'none'; allowed: adam"),
        (["train", "--recipe", "adam", "--output", "x.pth"], "ends in .safetensors"),
        (["train", "--recipe", "adam", "--output", "x.safetensors", "--stack", "ipex"], "tox -r -e ipex --notest"),
        (["train", "--recipe", "adam", "--stack", "oracle"], "--stack oracle: does not train"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_and_status_2(bench, tmp_path, arguments, reason) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    (tmp_path / "odd" / "latest").mkdir(parents=True)
    source = [] if "--data" in arguments or arguments[0] in ("report", "models", "fly") else ["--data", "synthetic"]
    done = bench(*arguments, *source, BENCH_ENVIRONMENTS_DIR=str(tmp_path / "none"))
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.returncode == 2
    left = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.name not in ("toys.toml", "x.safetensors.log")
    ]
    assert left == []


@pytest.mark.parametrize("damage", ["preset", "arms", "cases", "pairs", "machine", "models", "settings"])
def test_a_damaged_run_is_refused_in_one_line_and_left_unchanged(measured, tmp_path, damage) -> None:
    folder = shutil.copytree(measured[0], tmp_path / "r")
    description = json.loads((folder / "run.json").read_text())
    del description[damage]
    (folder / "run.json").write_text(json.dumps(description))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = run_bench(tmp_path, "report", "r")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "damaged" in done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_measures_no_arm_says_so_and_fails(tmp_path) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    done = run_bench(
        tmp_path, "run", "--suite", "./toys.toml", "--preset", "smoke", "--data", "synthetic", "--name", "r",
        "--stack", "oracle", "--precision", "bf16",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "No arm was measured." in (tmp_path / "results/r/report.md").read_text()
    assert "absolute times, but" not in done.stdout


def test_without_a_command_the_help_of_a_fleet_is_shown(tmp_path) -> None:
    done = run_bench(tmp_path, "fleet")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Write the report of a fleet again" in done.stdout


def test_a_stack_without_its_baseline_gets_absolute_times_and_no_speedup(tmp_path) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    options = ["--preset", "smoke", "--data", "synthetic", "--name", "r", "--stack", "toy"]
    done = run_bench(tmp_path, "run", "--suite", "./toys.toml", *options)
    assert done.returncode == 0, done.stderr
    assert "there are absolute times, but no speedup" in (tmp_path / "results/r/report.md").read_text()
    assert float(rows(tmp_path / "results" / "r", "arms.csv")["good"]["latency_us"]) > 0


def test_a_closed_pipe_does_not_end_the_run(tmp_path) -> None:
    (tmp_path / "toys.toml").write_text(SMALL)
    options = ["--preset", "smoke", "--data", "synthetic", "--name", "r", "--stack", "toy"]
    command = shortened(tmp_path, "run", "--suite", "./toys.toml", *options)
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
    assert process.returncode == 0
    assert (tmp_path / "results" / "r" / "report.html").exists()


def test_a_faulty_backend_file_is_named(tmp_path) -> None:
    (tmp_path / "odd.py").write_text("def (")
    done = run_bench(tmp_path, "list", BENCH_BACKENDS=str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "backends/odd.py: can't be imported" in done.stderr


def test_list_shows_the_names_that_options_accept(bench) -> None:
    shown = bench("list").stdout
    for word in (
        "inference",
        "standard",
        "pytorch",
        "ipex",
        "channels_last",
        "jit",
        "cnn-small",
        "7,510,986",
        "adam",
        "itex/eigen",
        "openvino/throughput",
        "tensorflow-latest/graph",
        "plain",
        "[fp32, bf16, int8]",
    ):
        assert word in shown


def test_help_and_list_offer_the_public_presets(bench) -> None:
    names = [name for name, preset in PRESETS.items() if not preset.internal]
    assert f"{', '.join(names[:-1])} or {names[-1]}" in " ".join(bench("run", "--help").stdout.split())
    section = bench("list").stdout.partition("Presets (--preset)")[2].partition("Stacks (--stack)")[0]
    assert [line.split()[0] for line in section.splitlines() if line.strip()] == names


def test_a_model_is_shown_layer_by_layer(bench) -> None:
    shown = bench("models", "cnn-small").stdout
    assert re.search(r"conv2d2 +Conv2d +\(N, 14, 14, 32\) +4,640 ", shown)
    assert "Total parameters: 206,922, 206,922 of them trainable" in shown


@pytest.mark.parametrize("command", [
    ["run"], ["train", "--recipe", "adam"], ["tune", "--recipe", "adam"], ["evaluate", "x"], ["selftest"], ["claims"],
    ["doctor"], ["report"],
])  # fmt: skip
def test_the_first_line_on_a_terminal_appears_before_slow_imports(tmp_path, command) -> None:
    code = f"import sys; sys.modules['numpy'] = None; sys.argv[1:] = {command}; from bench.cli import main; main()"
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"TERM": "dumb"},
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(theirs)
        assert re.search(rb"(reading|observing) \w+", os.read(ours, 1000))
    os.close(ours)
    assert process.returncode == 1


def test_the_line_of_an_error_ends_between_words_on_a_terminal(monkeypatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    for stream, count in ((StringIO(), 1), (Terminal(), 3)):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit):
            fail("word " * 40)
        lines = stream.getvalue().splitlines()
        assert len(lines) == count
        assert " ".join(lines) == "bench: " + " ".join(["word"] * 40)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_only_the_first_interrupt_counts(number) -> None:
    before = signal.getsignal(number)
    with first_interrupt_only():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_command_under_nohup_does_not_end_with_its_terminal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with first_interrupt_only():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_after_a_hangup_nothing_is_written_to_the_terminal(monkeypatch) -> None:
    """The other end of the terminal is closed: a write to it would be an input/output error."""
    ours, terminal = pty.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "__stdout__", stream)
        monkeypatch.setattr(sys, "__stderr__", None)
        with first_interrupt_only():
            os.close(ours)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGHUP)
            stream.write("the report\n")
            stream.flush()
