"""How fast the page of a report is in Chromium: its first paint, and sorting and filtering 500 rows.

`python -m tests.experiments.page [REPEATS]` prints medians with their ranges. A click is timed from before the event
until the second animation frame after it: then the changed page has been painted.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page, sync_playwright

from bench.report.page.html import to_html
from conftest import ROOT
from tests.report.small_document import rows_document

REFERENCE = ROOT / "results" / "reference" / "report.html"
ROWS = 500
FIRST_PAINT = """() => new Promise((found) => {
    new PerformanceObserver((list) => {
        const paint = list.getEntriesByName("first-contentful-paint")[0];
        if (paint) found(paint.startTime);
    }).observe({ type: "paint", buffered: true });
})"""
TIMED = """async () => {
    const start = performance.now();
    ACT;
    const done = performance.now();
    await new Promise((painted) => requestAnimationFrame(() => requestAnimationFrame(painted)));
    return [done - start, performance.now() - start];
}"""
SORT = "[...document.querySelectorAll('.sort')][1].click()"
FILTER = """const select = document.querySelector('.filters select');
    select.value = select.value ? '' : 'stack3';
    select.dispatchEvent(new Event('change'))"""


def first_paint_ms(browser: Browser) -> float:
    """Return the time from the start of the navigation to the first contentful paint, in a fresh context."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        page.goto(REFERENCE.as_uri())
        return float(page.evaluate(FIRST_PAINT))


def act_ms(page: Page, act: str) -> tuple[float, float]:
    """Return how long the script of an act takes, and how long it is until its effect is painted."""
    script, painted = page.evaluate(TIMED.replace("ACT", act))
    return script, painted


def shown(values: list[float]) -> str:
    return f"{median(values):.0f} ms ({min(values):.0f} to {max(values):.0f})"


def main(repeats: int) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        many = Path(folder) / "rows.html"
        many.write_text(to_html(rows_document(ROWS), {}))
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = running.chromium.launch(executable_path=chromium, args=arguments)
        paints = [first_paint_ms(browser) for _ in range(repeats)]
        print(f"n = {repeats} each; median (range)")
        print(f"first paint of the reference run's page, {REFERENCE.stat().st_size:,} bytes: {shown(paints)}")
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(many.as_uri())
        for name, act in (("sorting", SORT), ("filtering", FILTER)):
            times = [act_ms(page, act) for _ in range(repeats)]
            script, painted = (list(column) for column in zip(*times, strict=True))
            print(f"{name} {ROWS} rows: script {shown(script)}, until it is painted {shown(painted)}")
        browser.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
