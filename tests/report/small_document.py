"""One small document with every kind of block, and documents of many rows."""

from bench.report.document import (
    Bullets,
    Card,
    Cards,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Plot,
    Row,
    Section,
    Strong,
    Table,
    text_table,
)
from bench.report.plots.svg import label, svg


def drawing(alt: str, width: float) -> str:
    return svg("bars", alt, width, 9, label(0, 9, alt))


TABLE = Table(
    (Heading("Arm"), Heading("Speedup, x", numeric=True), Heading("Verdict")),
    (
        Row((Cell("ipex | jit"), Cell("1.23"), Cell("FASTER", "FASTER")), "primary"),
        Row((Cell("eager (A/A)"), Cell("1.00"), Cell("UNRESOLVED", "UNRESOLVED", "too <few>")), "replica"),
        Row((Cell("compile"), Cell("9.9", struck=True), Cell("")), facets={"stack": "a & b"}),
    ),
    title="cnn, latency",
)
DOCUMENT = Document(
    title="A *title*",
    lead="The lead,\n   on two lines.",
    warnings=("SYNTHETIC DATA",),
    sections=(
        Section(
            "Answer",
            (
                Paragraph("Yes.", "answer"),
                Cards((Card("IPEX", "worth it", "FASTER", (Paragraph((Strong("F"), " x"), "f"),)),)),
            ),
        ),
        Section(
            "First",
            (
                Paragraph("An explanation."),
                Paragraph(("Run ", Code("a_b `c`"), ", then ", Code("x<y"), "."), "warning"),
                Section("Inner", (TABLE, Plot("bars", "Bars [of] all", "Right is *better*."))),
            ),
        ),
        Section("Second", (Bullets(("one", ("two ", Code("2")))), text_table(("P",), [("v",)], folded="All of them"))),
    ),
)


def rows_document(count: int) -> Document:
    """Return a document with a table of so many rows, of which each fifth is another stack."""
    headings = (Heading("Arm"), Heading("Speedup", numeric=True), Heading("Verdict"))
    rows = [
        Row(
            (Cell(f"arm {index}"), Cell(f"{1 + index * 7 % count:,}.5"), Cell("FASTER", "FASTER", "a reason")),
            facets={"stack": f"stack{index % 5}", "verdict": ("FASTER", "SLOWER")[index % 2]},
        )
        for index in range(count)
    ]
    return Document("rows", "", (), (Section("First", ()), Section("Rows", (Table(headings, tuple(rows)),))))
