"""A run, a training and a model of strangers whose every text is an attack: pages, tables and lines show it as text."""

import csv
import io
import json
import os
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from xml.dom.minidom import parse

import numpy as np
import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from bench.analysis.claims import CLAIMS
from bench.commands.claims import compare_claims
from bench.commands.compare import CompareOptions, compare_recorded, show_history
from bench.commands.stored_run import FORMATS, convert_run
from bench.journal import JOURNAL, RUN, lines_of, write_pages
from bench.report.evaluation import EvaluatedModel, render_evaluation
from bench.report.run_report import write_report
from bench.suite.arms import Arm
from bench.suite.user_variables import UserVariables
from bench.training.evaluate import Evaluation
from bench.training.model_file import ModelFile
from conftest import ROOT
from models.zoo import CNN_SMALL
from tests.hostile.targets import TINY
from tests.report.pages import outside_code
from tests.training.test_history import RECORD, history

# Each of these parts would do something, if it were not text.
ATTACK = (
    "=cmd|' /C calc'!A0;=1+1\t@SUM(1) \"'></title></style></textarea></script>"
    "<script>window.attacked=1;alert(1)</script><img src=//evil.example/a onerror=window.attacked=1>"
    "<svg onload=alert(1)><a href=javascript:alert(1)>x</a><iframe src=//evil.example></iframe>"
    "<meta http-equiv=refresh content=0;url=//evil.example><style>@import '//evil.example'</style>"
    "[l](javascript:alert(1)) ![i](//evil.example/i.png) https://evil.example www.evil.example <https://evil.example> "
    "&lt;script&gt; ${7*7} {{7*7}} {% x %} `<b>` ]]> <!-- \x1b]0;t\x07\x1b[31m\u202e\x00 ::error::x "
)
# Texts that must be what they are, or the file is refused: names that others refer to, and those of a fixed set.
FIXED = {
    "kind", "preset", "scenario", "precision", "stack", "variant", "settings", "model", "arm", "arms", "baseline",
    "baselines", "case", "cases", "lineups", "schedule", "labels", "truth", "status", "rule", "link", "environment",
    "what",
}  # fmt: skip
# Names that stand in many places, which are all changed.
NAMES = ("eager", "cnn-small", "ipex")
TAGS = {
    "a", "article", "body", "button", "circle", "code", "details", "div", "figcaption", "figure", "g", "h1", "h2", "h3",
    "h4", "head", "header", "html", "input", "label", "li", "line", "main", "meta", "nav", "ol", "option", "p", "path",
    "polygon", "polyline", "rect", "s", "script", "section", "select", "span", "strong", "style", "summary", "sup",
    "svg", "table", "tbody", "td", "template", "text", "th", "thead", "title", "tr", "tspan", "ul",
}  # fmt: skip
# What is in a template is not in the document until a reader asks for it.
ELEMENTS = """[document, ...[...document.querySelectorAll("template")].map((template) => template.content)]
    .flatMap((root) => [...root.querySelectorAll("*")])"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def attacked(value, key=""):
    """Return JSON in which every text that may be anything is an attack, before what it was."""
    match value:
        case str() if key not in FIXED:
            return ATTACK + value
        case list():
            return [attacked(item, key) for item in value]
        case dict() if key not in FIXED:
            return {name: attacked(item, name) for name, item in value.items()}
        case _:
            return value


def renamed(text: str) -> str:
    """Return a text of JSON in which the names of arms and models are attacks, wherever they stand."""
    for name in NAMES:
        text = re.sub(rf"\b{name}\b(?!-)", lambda match: match[0] + json.dumps(ATTACK)[1:-1], text)
    return text


def attack_run(folder, seed):
    """Write the beginning of the reference run, as a stranger could change it."""
    folder.mkdir()
    reference = ROOT / "results" / "reference"
    info = json.loads((reference / RUN).read_text())
    info |= {"seed": seed, "started": f"2026-01-0{seed}T00:00:00+00:00"}
    info["missing"] = {"ipex": "not there"}
    info["variables"] = {"given": {"A": "b"}, "kept": {"C": "d"}, "dropped": ["E"]}
    info["mismatches"] = {"vanilla and ipex": {"numpy": ["1", "2"]}}
    (folder / RUN).write_text(renamed(json.dumps(attacked(info), ensure_ascii=True)))
    records = [json.loads(line) for line in lines_of(reference, "utf-8")]
    records = [record for record in records if record.get("block", 0) in (0, 1, 2, None)]
    for record in records:
        if len(record.get("counts", ())) == 1 and "samples_ns" in record:
            record["samples_ns"] = record["samples_ns"][:20]
            record["counts"] = [len(record["samples_ns"])]
    arm, case = "openvino/latency", "cnn-small/latency/b1"
    records.insert(0, {"kind": "failure", "arm": arm, "case": case, "block": 1, "reason": "broken"})
    (folder / JOURNAL).write_text("".join(renamed(json.dumps(attacked(record))) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def attack(tmp_path_factory):
    """Return a folder with all that is written about the files of a stranger, and what the console shows."""
    folder, shown = tmp_path_factory.mktemp("attack"), io.StringIO()
    console = Console(file=shown, width=200)
    runs = [attack_run(folder / name, seed) for seed, name in enumerate(("one", "two"), 1)]
    write_report(runs[0], console)
    convert_run(runs[0], [name for name in FORMATS if name != "parquet"], None, console)
    outputs = tuple(folder / f"comparison.{suffix}" for suffix in ("md", "csv", "xml"))
    compare_recorded(CompareOptions(tuple(runs), 0.05, outputs), console)
    # Its package is installed where all tests run.
    if find_spec("ruptures"):
        show_history(tuple(runs), folder, (folder / "history.md", folder / "history.csv"), None, console)
    compare_claims(None, folder, "auto", console)
    random, model = np.random.default_rng(0), folder / "model"
    model.mkdir()
    network = replace(TINY, summary=ATTACK)
    truth = random.integers(0, 10, 300)
    evaluations = [
        Evaluation(Arm("pytorch", ATTACK), random.random((300, 10)), truth),
        Evaluation(Arm("ipex", "jit"), None, truth, ATTACK),
    ]
    job = replace(
        RECORD.job, stack=ATTACK, variant=ATTACK, recipe=replace(RECORD.job.recipe, name=ATTACK, summary=ATTACK)
    )
    record = replace(RECORD, job=job)
    file = ModelFile(folder / ATTACK.replace("/", "")[:100], network, {}, {"data": ATTACK})
    variables = UserVariables({"A": ATTACK}, {"B": ATTACK}, (ATTACK,))
    evaluated = EvaluatedModel(file, evaluations, ATTACK, variables, history(2.0, 1.0), record)
    write_pages(model, *render_evaluation(evaluated))
    return folder, shown.getvalue()


def written(attack, suffix):
    paths = sorted(attack[0].rglob(f"*{suffix}"))
    assert paths
    return paths


def test_every_text_is_an_attack(attack) -> None:
    """Or the other tests would say little."""
    page = (attack[0] / "one" / "report.html").read_text()
    assert page.count("attacked=1") > 200
    for suffix in (".md", ".csv"):
        for path in written(attack, suffix):
            if path.name not in ("roc.csv", "confusion.csv", "history.csv", "claims.md", "claims.csv", "threads.csv"):
                assert "attacked=1" in path.read_text(), path


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: tox -e tests")
    if CHROMIUM is None:
        pytest.skip("needs Chromium, for instance `apt-get install chromium`")
    with playwright.sync_playwright() as running:
        # The sandbox needs rights that containers and root do not have.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.mark.xdist_group("browser")
@pytest.mark.parametrize("bypass", [False, True], ids=["with its policy", "without its policy"])
def test_in_a_browser_nothing_runs_asks_connects_or_is_foreign(attack, browser, bypass) -> None:
    """The policy is a second line of defence: without it nothing may run either."""
    happened = []
    context = browser.new_context(bypass_csp=bypass)
    # A file of a plot has no policy.
    pages = written(attack, ".html") + ([] if bypass else written(attack, ".svg"))
    own = {path.as_uri() for path in pages}
    page = context.new_page()
    page.on("dialog", lambda dialog: (happened.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: happened.append(request.url) if request.url not in own else None)
    page.on("pageerror", lambda error: happened.append(str(error)))
    page.on("console", lambda message: happened.append(message.text))
    page.on("popup", lambda popup: happened.append(f"popup {popup.url}"))
    for path in pages:
        page.goto(path.as_uri())
        if path.suffix == ".html":
            use_controls(page)
        assert page.evaluate("window.attacked") is None
        names = page.evaluate(f"{ELEMENTS}.map((element) => element.localName.toLowerCase())")
        assert set(names) <= TAGS
        assert names.count("script") == (path.suffix == ".html")
        assert names.count("meta") == (4 if path.suffix == ".html" else 0)
        attributes = page.evaluate(f"{ELEMENTS}.flatMap((each) => [...each.attributes].map((a) => [a.name, a.value]))")
        assert not [
            name for name, _ in attributes if name.startswith("on") or name in ("src", "style", "srcdoc", "action")
        ]
        assert all(value.startswith("#") for name, value in attributes if name.endswith("href"))
    context.close()
    assert happened == []
    assert len(pages) >= 2


def use_controls(page) -> None:
    """Use what the script makes of texts: filters, the sorting of tables, and legends."""
    for index in range(page.locator("select").count()):
        select = page.locator("select").nth(index)
        options = select.locator("option").count()
        select.select_option(index=options - 1)
        select.select_option(index=0)
    for heading in page.locator("main th[scope=col]").all()[:5]:
        heading.click()


def test_plots_are_well_formed(attack) -> None:
    for path in written(attack, ".svg") + written(attack, ".xml"):
        tree = parse(str(path))
        assert not tree.getElementsByTagName("script")


def test_markdown_has_no_html_and_no_links(attack) -> None:
    parser = MarkdownIt("commonmark").enable("table").enable("strikethrough")
    for path in written(attack, ".md"):
        text = path.read_text()
        tokens = [token for block in parser.parse(text) for token in (block, *(block.children or ()))]
        assert not [token.content for token in tokens if token.type.startswith("html")], path
        assert not [token.attrs for token in tokens if token.type == "link_open"], path
        assert all(str(token.attrs["src"]).startswith("plots/") for token in tokens if token.type == "image"), path
        # GitHub makes a link of each address that stands in a text.
        assert not re.search(r"(?<!\\)://|\bwww\.", outside_code(text)), path


def test_no_cell_is_a_formula(attack) -> None:
    for path in written(attack, ".csv"):
        text = path.read_text()
        for delimiter in ",;\t":
            for row in csv.reader(io.StringIO(text), delimiter=delimiter):
                for cell in row:
                    assert not re.match(r"""[\s"']*[=@+]|-[^\d.]""", cell) or cell.lstrip(' "').startswith("'"), (
                        path,
                        cell,
                    )


def test_nothing_controls_the_terminal(attack) -> None:
    texts = {
        path: path.read_text()
        for suffix in (".md", ".csv", ".svg", ".html", ".tex")
        for path in written(attack, suffix)
    }
    for name, text in (texts | {"console": attack[1]}).items():
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text), name


def test_claims_are_ours_alone(attack) -> None:
    """A folder of a stranger adds no row to the table of claims, and no verdict: its run has no such suite."""
    assert len((attack[0] / "claims.csv").read_text().splitlines()) >= len(CLAIMS)
    assert CNN_SMALL.name in NAMES
