"""Renders the figures of the README and of docs/ from the result files, so that none is typed.

A page holds blocks, whose NAME is one of `benchmarks.documented_tables.TABLES`:

    <!-- figures: NAME -->
    ... written by this command ...
    <!-- end -->

python -m benchmarks.documented_figures            rewrites every block in its place
python -m benchmarks.documented_figures --check    names the stale blocks and exits with 1

A block that says "Not measured yet." may stay so until its result file exists.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.documented_tables import TABLES
from benchmarks.harness.result import RESULTS_FOLDER

ROOT = Path(__file__).parents[1]
NOT_MEASURED = "Not measured yet."

_BLOCK = re.compile(
    r"^<!-- figures: (?P<name>[\w-]+) -->\n(?P<text>.*?)^<!-- end -->$", re.DOTALL | re.MULTILINE
)
_OPENING = re.compile(r"^<!-- figures:", re.MULTILINE)


def documented_pages(root: Path) -> Iterator[Path]:
    """Yield the README and the pages of docs/, by name."""
    yield root / "README.md"
    yield from sorted((root / "docs").glob("*.md"))


def render_page(text: str, results: Path) -> tuple[str, list[str]]:
    """Return the page with every block rendered, and the names of the blocks that were stale.

    Raises ValueError for a block without an end or of an unknown name, and for a result file that
    is missing or holds other figures than the block needs.
    """
    blocks = list(_BLOCK.finditer(text))
    if len(_OPENING.findall(text)) != len(blocks) or any(
        _OPENING.search(one["text"]) for one in blocks
    ):
        raise ValueError(
            'a block has no "<!-- end -->", or its first line is not "<!-- figures: NAME -->"'
        )
    stale = []

    def rendered(block: re.Match[str]) -> str:
        new = _render_block(block["name"], block["text"], results)
        if new != block["text"]:
            stale.append(block["name"])
        return f"<!-- figures: {block['name']} -->\n{new}<!-- end -->"

    return _BLOCK.sub(rendered, text), stale


def without_blocks(text: str) -> str:
    """Return the page without its rendered blocks: what people have written."""
    return _BLOCK.sub("", text)


def _render_block(name: str, present: str, results: Path) -> str:
    if name not in TABLES:
        raise ValueError(f"the block {name!r} is none of: {', '.join(sorted(TABLES))}")
    table = TABLES[name]
    missing = [file for file in table.files if not (results / file).is_file()]
    if missing and present.strip() == NOT_MEASURED:
        return present
    if missing:
        raise ValueError(
            f"the block {name!r} needs {results / missing[0]}, which is missing; restore the file, "
            f'measure again, or let the block say "{NOT_MEASURED}"'
        )
    return "\n".join(table.render(results)) + "\n"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.documented_figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a block is stale")
    parser.add_argument("--results", type=Path, default=RESULTS_FOLDER, metavar="FOLDER")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="of the pages")
    options = parser.parse_args(arguments)
    status = 0
    for path in documented_pages(options.root):
        try:
            text, stale = render_page(path.read_text(encoding="utf-8"), options.results)
        except ValueError as error:
            print(f"benchmarks.documented_figures: {path}: {error}", file=sys.stderr)
            return 1
        for name in stale:
            outcome = "is stale" if options.check else "rendered"
            print(f"{path.relative_to(options.root)}: {name} {outcome}")
        if stale and options.check:
            status = 1
        elif stale:
            path.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
