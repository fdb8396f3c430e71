"""Make texts of strangers safe to show: on a terminal, in a page, in a spreadsheet."""

from __future__ import annotations

import re
import unicodedata

# What makes spreadsheets take a text for a formula, also after what some of them take for the end of a cell.
FORMULA_START = re.compile(r"""(^|[;\t\r\n])(?=[\s"']*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20])""")


def printable(text: str) -> str:
    """Return a text in which nothing controls a terminal, or changes how the text around it is shown."""
    if text.isprintable():
        return text
    return "".join(char if _is_plain(char) else ascii(char)[1:-1] for char in text)


def _is_plain(char: str) -> bool:
    # Python takes all spaces but one for characters that can't be printed.
    return char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs"


def without_formulas(text: str) -> str:
    """Return a printable text that no spreadsheet runs as a formula."""
    return FORMULA_START.sub(r"\1'", printable(text))
