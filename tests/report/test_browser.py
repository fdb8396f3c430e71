"""The page in Chromium: what the script, the style and the policy do there."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import struct
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from bench.records import Failure
from bench.report.document import Cell, Document, Heading, Row, Section, Table
from bench.report.page.html import to_html
from bench.report.run_report import write_report
from bench.report.text import UNCOMMITTED
from conftest import ROOT
from tests.analysis.recorded_run import CASE, COMPILE, EAGER, JIT, inference_run, ladder_info, training_run
from tests.report.small_document import rows_document

playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: tox -e tests")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, for instance `apt-get install chromium`"),
    # One worker starts the browser once.
    pytest.mark.xdist_group("browser"),
]
REFERENCE = ROOT / "results" / "reference" / "report.html"
HOSTILE = '<script>document.title = "broken"</script><img src=x onerror="document.title = 1">"&\'=1+1'
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as running:
        # The sandbox needs rights that containers and root do not have.
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the pages of a hostile run, of a training run, of 5 rows and of 500 by name."""
    folder = tmp_path_factory.mktemp("pages")
    ladder = ladder_info(HOSTILE, [(HOSTILE, EAGER), ("compile", COMPILE), (HOSTILE, JIT)])
    hostile = inference_run(folder / "hostile").describe(
        ladders=(ladder,), advice=(HOSTILE,), missing={HOSTILE: HOSTILE}, command=("bench", HOSTILE), started=HOSTILE
    )
    # The warning about it has the longest word.
    hostile.describe(git_commit="c" * 60 + UNCOMMITTED)
    hostile.describe(
        suite=replace(hostile.info.suite, name=HOSTILE), machine=replace(hostile.info.machine, cpu=HOSTILE)
    )
    hostile.records.append(Failure(JIT.id, CASE.id, 1, HOSTILE))
    for builder in (hostile, training_run(folder / "training")):
        write_report(builder.write(), Console(file=io.StringIO()))
    for count in (5, 500):
        (folder / f"{count}.html").write_text(to_html(rows_document(count), {}))
    names = {name: folder / name / "report.html" for name in ("hostile", "training")}
    return names | {str(count): folder / f"{count}.html" for count in (5, 500)} | {"reference": REFERENCE}


@pytest.fixture
def visit(browser, pages):
    """Return a function that opens a page, and fails the test if the browser complains about it."""
    complaints, contexts = [], []

    def open_page(name: str, fragment: str = "", **options):
        context = browser.new_context(**{"viewport": DESKTOP, "accept_downloads": True} | options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or complaints.append(request.url))
        page.goto(pages[name].as_uri() + fragment)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def column(page, number: int, table: str = "#rows") -> list[str]:
    rows = page.locator(f"{table} tbody tr:visible")
    return rows.evaluate_all("(rows, number) => rows.map((row) => row.cells[number].innerText.trim())", number)


@pytest.mark.parametrize("name", ["reference", "training", "hostile", "5", "500"])
def test_the_browser_has_nothing_to_complain_about(visit, name) -> None:
    for options in ({}, {"color_scheme": "dark"}, {"viewport": PHONE}):
        assert visit(name, **options).locator("h1").count() == 1


def test_hostile_text_is_text(visit) -> None:
    page = visit("hostile")
    assert page.locator("h1").inner_text().startswith(HOSTILE)
    assert page.locator("img").count() == 0
    assert page.title().startswith(HOSTILE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("reference", {}),
        ("reference", {"color_scheme": "dark"}),
        ("reference", {"viewport": PHONE}),
        ("training", {}),
        ("hostile", {"color_scheme": "dark"}),
    ],
    ids=["light", "dark", "phone", "training", "hostile"],
)
def test_nothing_hinders_a_screen_reader_or_a_keyboard(visit, name, options) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = visit(name, "#?size=speedups.2&scale=latencies.linear", **options)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    found = axe.Axe().run(page).response["violations"]
    assert [(violation["id"], violation["nodes"][0]["html"]) for violation in found] == []


def test_without_a_script_all_content_is_there(visit) -> None:
    for name in ("reference", "500"):
        with_script, without = visit(name), visit(name, java_script_enabled=False)
        assert without.locator("tbody tr").count() == with_script.locator("tbody tr").count()
        assert without.locator("tbody tr:visible").count() == with_script.locator("tbody tr:visible").count()
        assert without.locator(".filters, .tools, .sort, button").count() == 0


@pytest.mark.parametrize("name", ["reference", "training", "hostile"])
def test_no_column_is_cut_off(visit, name) -> None:
    page = visit(name)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    cut = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth + 1).length"
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    assert page.evaluate(cut) == 0
    assert not visit(name, viewport=PHONE).evaluate(wide)


def test_on_paper_nothing_is_cut_off_or_folded(visit) -> None:
    # A4 between its margins, at 96 pixels an inch.
    page = visit("reference", viewport={"width": 710, "height": 1000}, java_script_enabled=False)
    page.emulate_media(media="print")
    context = page.context
    assert page.locator("nav, .filters, .tools").locator("visible=true").count() == 0
    folded = page.locator("details tbody tr").first
    assert folded.bounding_box()["height"] > 0
    pages = len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))
    assert pages > 3
    script = context.browser.new_page(viewport={"width": 710, "height": 1000})
    script.goto(page.url)
    script.emulate_media(media="print")
    script.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    boxes = "[...document.querySelectorAll('.scroll, figure')]"
    assert script.evaluate(f"{boxes}.filter((box) => box.scrollWidth > box.clientWidth + 1).length") == 0
    script.close()


def test_dark_and_light_follow_the_reader(visit) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    assert visit("5").evaluate(colour) == "rgb(255, 255, 255)"
    assert visit("5", color_scheme="dark").evaluate(colour) == "rgb(20, 24, 29)"
    axis = "getComputedStyle(document.querySelector('svg text')).fill"
    assert visit("reference", color_scheme="dark").evaluate(axis) == "rgb(228, 232, 236)"


@pytest.mark.parametrize("name", ["5", "500"])
def test_a_table_is_sorted_by_a_click_on_its_heading(visit, name) -> None:
    page = visit(name)
    before = column(page, 1)
    heading = page.get_by_role("button", name="Speedup")
    sorts = []
    for direction in ("descending", "ascending", None):
        heading.click()
        assert page.locator("#rows th[aria-sort]").count() == (direction is not None)
        sorts.append([float(text.replace(",", "")) for text in column(page, 1)])
    assert sorts[0] == sorted(sorts[0], reverse=True)
    assert sorts[1] == sorted(sorts[0])
    assert column(page, 1) == before


def test_rows_are_filtered_by_stack_and_verdict_and_the_view_is_in_the_address(visit) -> None:
    page = visit("500")
    page.get_by_label("Stack").select_option("stack3")
    page.locator(".filters").get_by_label("Verdict").select_option("SLOWER")
    assert len(column(page, 0)) == 50
    assert all(int(name.removeprefix("arm ")) % 10 == 3 for name in column(page, 0))
    assert page.locator(".count").inner_text() == "50 of 500 rows"
    page.get_by_role("button", name="Speedup").click()
    page.get_by_text("Columns").click()
    page.get_by_role("checkbox", name="Verdict").uncheck()
    fragment = page.evaluate("location.hash")
    again = visit("500", fragment)
    assert column(again, 0) == column(page, 0)
    assert again.locator("#rows th:visible").count() == 2 + 50
    again.get_by_role("button", name="Reset").click()
    assert len(column(again, 0)) == 500


def test_the_rows_that_are_shown_are_downloaded(visit, tmp_path) -> None:
    page = visit("500")
    page.get_by_label("Stack").select_option("stack4")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == "rows.csv"
    download.value.save_as(tmp_path / "rows.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert [row["Arm"] for row in rows] == column(page, 0)
    assert {row["Verdict"] for row in rows} == {"FASTER"}


def test_no_spreadsheet_takes_a_text_for_a_formula(visit, pages, tmp_path) -> None:
    table = Table((Heading("a"), Heading("b")), (Row((Cell("=1+1"), Cell("-1.5"))), Row((Cell("-"), Cell('a "b", c')))))
    pages["formula"] = tmp_path / "formula.html"
    pages["formula"].write_text(to_html(Document("t", "", (), (Section("s", (table,)),)), {}))
    page = visit("formula")
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "s.csv")
    assert list(csv.reader(io.StringIO((tmp_path / "s.csv").read_text()))) == [
        ["a", "b"],
        ["'=1+1", "-1.5"],
        ["-", 'a "b", c'],
    ]


def test_the_contents_lead_to_every_section(visit) -> None:
    page = visit("reference")
    links = page.locator("nav a")
    assert links.count() > 10
    for index in range(links.count()):
        links.nth(index).click()
        target = links.nth(index).get_attribute("href")
        assert page.evaluate("location.hash") == target
        assert page.evaluate(f"document.activeElement.id === '{target[1:]}'")
        assert page.locator(target).evaluate("(section) => section.getBoundingClientRect().top < innerHeight")
    page = visit("reference", "#costs?stack=ipex")
    assert page.locator("#costs").evaluate("(section) => Math.abs(section.getBoundingClientRect().top) < 200")
    assert page.locator(".filters select").first.input_value() == "ipex"


def test_the_note_of_a_cell_is_a_click_away(visit) -> None:
    page = visit("5")
    page.locator("sup a").first.click()
    assert page.evaluate("document.activeElement.innerText") == "a reason"


def faded(page, plot: str) -> list[str]:
    parts = page.locator(f"figure svg.wide[data-name={plot}] g[data-series]:not(.key)")
    script = "(parts) => parts.filter((p) => getComputedStyle(p).opacity < 0.5).map((p) => p.dataset.series)"
    return parts.evaluate_all(script)


def test_a_click_on_the_legend_isolates_a_series(visit) -> None:
    page = visit("reference")
    key = page.locator("svg.wide[data-name=costs] .key[data-series=build]")
    key.click()
    assert set(faded(page, "costs")) == {"convert", "import", "first call"}
    assert key.get_attribute("aria-pressed") == "true"
    again = visit("reference", page.evaluate("location.hash"))
    assert set(faded(again, "costs")) == {"convert", "import", "first call"}
    key.focus()
    page.keyboard.press("Enter")
    assert faded(page, "costs") == []
    key.click()
    page.locator("svg.wide[data-name=costs] .key[data-series=import]").click(modifiers=["Shift"])
    assert set(faded(page, "costs")) == {"convert", "first call"}


def test_every_entry_of_every_legend_isolates_something(visit) -> None:
    page = visit("reference")
    for plot in page.locator("figure svg.wide").evaluate_all("(plots) => plots.map((plot) => plot.dataset.name)"):
        parts = f"figure svg.wide[data-name={plot}] [data-series]"
        series = page.locator(f"{parts}:not(.key)").evaluate_all("(parts) => parts.map((part) => part.dataset.series)")
        keys = page.locator(f"{parts}.key").evaluate_all("(keys) => keys.map((key) => key.dataset.series)")
        assert set(keys) <= set(series), plot


def figure(page, plot: str):
    return page.locator(f"figure:has(svg[data-name={plot}])")


def texts(page, plot: str) -> list[str]:
    return figure(page, plot).locator("svg.wide text").all_text_contents()


def test_a_plot_of_times_has_two_scales(visit) -> None:
    page = visit("reference")
    before = texts(page, "latencies")
    assert "latency, µs (log scale); left is faster ←" in before
    figure(page, "latencies").locator(".key[data-series=ipex]:visible").click()
    button = figure(page, "latencies").get_by_role("button", name="linear scale")
    button.focus()
    page.keyboard.press("Enter")
    linear = texts(page, "latencies")
    assert "latency, µs; left is faster ←" in linear
    assert "0" in linear
    again = visit("reference", page.evaluate("location.hash"))
    assert texts(again, "latencies") == linear
    assert set(faded(again, "latencies")) == {"pytorch", "tensorflow", "itex", "openvino"}
    again.get_by_role("button", name="linear scale", pressed=True).click()
    assert texts(again, "latencies") == before
    assert "ipex" not in faded(again, "latencies")


def test_only_a_plot_that_has_another_scale_offers_it(visit) -> None:
    assert visit("reference").get_by_role("button", name="scale").count() == 1
    page = visit("training")
    assert page.get_by_role("button", name="log scale").count() == 1
    page.get_by_role("button", name="log scale").click()
    assert "training time, s (log scale); left is faster ←" in texts(page, "training")


@pytest.mark.parametrize("options", [{}, {"viewport": PHONE}], ids=["wide", "narrow"])
def test_a_plot_is_shown_larger(visit, options) -> None:
    page = visit("reference", **options)
    plot = figure(page, "roofline").locator("svg:visible")
    width = plot.bounding_box()["width"]
    figure(page, "roofline").get_by_role("button", name="larger").click()
    assert plot.bounding_box()["width"] > 1.9 * width
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    again = visit("reference", page.evaluate("location.hash"), **options)
    assert figure(again, "roofline").locator(".plot").evaluate("(box) => box.scrollWidth > 1.9 * box.clientWidth")


AREA = """(panel) => {
  const [left, top, right, bottom] = panel.dataset.area.split(" ").map(Number), places = panel.getScreenCTM();
  return [[left, top], [right, bottom]].flatMap(([x, y]) => {
    const point = new DOMPoint(x, y).matrixTransform(places);
    return [point.x, point.y];
  });
}"""


def area(page, plot: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the first panel's marks on the screen."""
    panel = figure(page, plot).locator("svg:visible .panel").first
    panel.scroll_into_view_if_needed()
    return tuple(panel.evaluate(AREA))


def drag(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    page.mouse.move(*end)
    page.mouse.up()


def axis_values(page, plot: str, axis: str) -> list[float]:
    labels = figure(page, plot).locator("svg:visible .panel").first.locator(f".t{axis}").all_text_contents()
    return sorted(float(text.replace(",", "")) for text in labels)


def drawn(page, plot: str) -> str:
    # A class that was taken away again leaves an empty attribute.
    return figure(page, plot).locator(".plot").inner_html().replace(' class=""', "")


def test_a_box_over_rows_shows_that_part_of_their_axis(visit) -> None:
    page = visit("reference")
    whole, before = axis_values(page, "latencies", "x"), drawn(page, "latencies")
    left, top, right, bottom = area(page, "latencies")
    width, middle = right - left, (top + bottom) / 2
    drag(page, (left + 0.2 * width, middle), (left + 0.4 * width, middle))
    part = axis_values(page, "latencies", "x")
    assert len(part) > 1
    assert part[-1] / part[0] < (whole[-1] / whole[0]) ** 0.35
    assert whole[0] < part[0] < part[-1] < whole[-1]
    shown = drawn(page, "latencies")
    again = visit("reference", page.evaluate("location.hash"))
    assert axis_values(again, "latencies", "x") == part
    # The other panels, and the plot's other scale, are as they were; that scale shows the same part.
    assert shown.count("clip-path") > 10
    figure(page, "latencies").get_by_role("button", name="linear scale").click()
    linear = axis_values(page, "latencies", "x")
    assert part[0] / 1.5 < linear[0] < linear[-1] < 1.5 * part[-1]
    figure(page, "latencies").get_by_role("button", name="linear scale").click()
    figure(page, "latencies").get_by_role("button", name="all", exact=True).click()
    assert drawn(page, "latencies") == before
    assert "zoom" not in page.evaluate("location.hash")


def test_a_box_in_a_plane_brings_what_is_in_it_to_its_place(visit) -> None:
    page = visit("reference")
    before = drawn(page, "roofline")
    left, top, right, bottom = area(page, "roofline")
    panel = figure(page, "roofline").locator("svg:visible .panel").first
    box = panel.locator("circle").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    drag(page, (x - 20, y - 10), (x + 20, y + 10))
    box = panel.locator("circle").first.bounding_box()
    moved = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert moved == pytest.approx(((left + right) / 2, (top + bottom) / 2), abs=8)
    assert box["width"] < 12
    page.mouse.move(*moved)
    assert page.locator(".tip.shown").count() == 1
    figure(page, "roofline").locator(".key[data-series=fp32]:visible").click()
    assert "fp32" not in faded(page, "roofline")
    figure(page, "roofline").locator(".key[data-series=fp32]:visible").click()
    page.mouse.dblclick((left + right) / 2, (top + bottom) / 2)
    assert drawn(page, "roofline") == before


def test_with_shift_the_mouse_moves_the_axes(visit) -> None:
    page = visit("reference")
    whole = axis_values(page, "costs", "x")
    left, top, right, bottom = area(page, "costs")
    width, middle = right - left, (top + bottom) / 2
    drag(page, (left + 0.1 * width, middle), (left + 0.6 * width, middle))
    part = axis_values(page, "costs", "x")
    page.keyboard.down("Shift")
    drag(page, (left + 0.2 * width, middle), (left + 0.7 * width, middle))
    page.keyboard.up("Shift")
    moved = axis_values(page, "costs", "x")
    assert moved[0] < part[0]
    assert moved[-1] < part[-1]
    assert part[-1] <= whole[-1]
    assert moved[-1] - moved[0] == pytest.approx(part[-1] - part[0], rel=0.35)


def test_a_part_of_an_axis_in_the_address_that_makes_no_sense_is_ignored(visit) -> None:
    parts = (
        "latencies.0_2_1",
        "latencies.0_x",
        "latencies.0_-5_100",
        "latencies.0_1_Infinity",
        "latencies.0_1_1.000000000000001",
        "latencies.77_1_2",
        "roofline.0_1_2",
        "nothing.0_1_2",
    )
    page = visit("reference", "#?" + "&".join(f"zoom={part}" for part in parts))
    plain = visit("reference")
    for plot in ("latencies", "roofline"):
        assert axis_values(page, plot, "x") == axis_values(plain, plot, "x")


def saved(page, plot: str, suffix: str, folder) -> bytes:
    with page.expect_download() as download:
        figure(page, plot).get_by_role("button", name=suffix.upper()).click()
    assert download.value.suggested_filename == f"{plot}.{suffix}"
    download.value.save_as(folder / "saved")
    return (folder / "saved").read_bytes()


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")])
def test_a_plot_is_saved_as_it_is_shown(visit, tmp_path, scheme, paper) -> None:
    page = visit("reference", color_scheme=scheme)
    page.locator("svg.wide[data-name=costs] .key[data-series=build]").click()
    content = saved(page, "costs", "svg", tmp_path).decode()
    root = ET.fromstring(content)
    parts = list(root.iter())
    assert root.get("width") == "1000"
    assert root[0].get("fill") == paper
    assert [part.text for part in parts if part.tag.endswith("text")] == texts(page, "costs")
    assert not re.search(r"var\(|<style|(class|style|role|tabindex|data-[a-z]+)=", content)
    shown = (
        figure(page, "costs")
        .locator("svg.wide rect")
        .evaluate_all(
            "(bars) => bars.filter((bar) => bar.matches('[stroke=none]')).map((bar) => getComputedStyle(bar).fill)"
        )
    )
    assert [part.get("fill") for part in parts if len(part) == 2 and part[0].tag.endswith("title")] == shown
    assert content.count('opacity="0.1"') == len(faded(page, "costs"))


def test_a_plot_is_saved_as_pixels(visit, tmp_path) -> None:
    """The file has twice the size of the plot, its paper, and its bars' colours."""
    page = visit("reference")
    content = saved(page, "costs", "png", tmp_path)
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width == 2000
    shown = page.locator("svg.wide[data-name=costs]").get_attribute("height")
    assert height == 2 * int(float(shown))
    colours = page.evaluate(
        """async (bytes) => {
            const image = await createImageBitmap(new Blob([new Uint8Array(bytes)], { type: "image/png" }));
            const canvas = new OffscreenCanvas(image.width, image.height), context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            const data = context.getImageData(0, 0, image.width, image.height).data, found = new Set();
            for (let at = 0; at < data.length; at += 4) found.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
            return [...found];
        }""",
        list(content),
    )
    assert {"255,255,255", "0,105,168", "178,80,0"} <= set(colours)


def test_the_pointer_shows_values(visit) -> None:
    page = visit("reference")
    page.locator("svg.wide[data-name=summary] circle").first.hover()
    tip = page.locator(".tip")
    assert tip.is_visible()
    assert re.search(r"speedup \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\), 95 % interval", tip.inner_text())
    page.mouse.move(2, 2)
    assert not tip.is_visible()


def test_a_phone_has_plots_of_its_own(visit) -> None:
    page = visit("reference", viewport=PHONE)
    assert page.locator("svg.wide:visible").count() == 0
    sizes = page.locator("svg.narrow:visible text").evaluate_all(
        "(texts) => texts.map((text) => text.getBoundingClientRect().height)"
    )
    assert min(sizes) > 8


def test_the_page_of_the_reference_run_is_small() -> None:
    assert REFERENCE.stat().st_size < 1_500_000
