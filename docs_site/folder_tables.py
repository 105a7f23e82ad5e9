"""Make the tables of folders in docs/architecture.md from the docstrings of the packages.

<!-- folders: PACKAGE -->
... written by `python -m docs_site` ...
<!-- end of folders -->
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docs_site.markdown import code, prose, table

_BLOCK = re.compile(
    r"^<!-- folders: (?P<package>\w+) -->\n.*?^<!-- end of folders -->$", re.DOTALL | re.MULTILINE
)


def with_folder_tables(text: str, root: Path) -> str:
    """Return the page with every block of folders written anew.

    Raises ValueError for a package that is not in `root`.
    """

    def rendered(block: re.Match[str]) -> str:
        lines = folder_table(root, block["package"])
        return "\n".join(
            [f"<!-- folders: {block['package']} -->", *lines, "<!-- end of folders -->"]
        )

    return _BLOCK.sub(rendered, text)


def folder_table(root: Path, package: str) -> list[str]:
    """Return a table of the package's folders, each with the first sentence of its docstring."""
    folders = sorted(path.parent for path in (root / package).rglob("__init__.py"))
    if not folders:
        raise ValueError(f"{root / package} holds no package")
    return table(
        ("folder", "what it does"),
        [
            (code(f"{folder.relative_to(root).as_posix()}/"), prose(_first_sentence(folder)))
            for folder in folders
        ],
    )


def _first_sentence(folder: Path) -> str:
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    paragraph = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")[0]
    return " ".join(paragraph.split())
