"""Write pieces of Markdown that come from the code: table rows, prose of docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"[*<]|(?<!\w)_|_(?!\w)")  # inside of a word `_` is none


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose cells are Markdown already, except for `|`."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def code(text: str) -> str:
    """Return `text` as code inside a line, or an empty string for an empty one."""
    return f"`{text}`" if text else ""


def prose(text: str) -> str:
    """Return a text of the code for a page: what Markdown or HTML would take as markup stays."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:  # a lone backtick: nothing here is code
        pieces = [text.replace("`", "\\`")]
    for number in range(0, len(pieces), 2):
        pieces[number] = _MARKUP.sub(r"\\\g<0>", pieces[number])
    return "`".join(pieces)


def docstring(of: object) -> str:
    """Return the docstring, without its indentation; empty for none or a dataclass's signature."""
    text = inspect.cleandoc(getattr(of, "__doc__", None) or "")
    return "" if text.startswith(f"{getattr(of, '__name__', '')}(") else text
