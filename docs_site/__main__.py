"""Write the pages that are made from the code, or say which ones are stale.

python -m docs_site            writes docs/reference/ and the tables of docs/architecture.md
python -m docs_site --check    writes nothing; names the stale pages and exits with 1
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs_site.commands_page import commands_page
from docs_site.configuration_page import configuration_page
from docs_site.folder_tables import with_folder_tables

ROOT = Path(__file__).parents[1]
ARCHITECTURE = Path("docs/architecture.md")


def made_pages(root: Path) -> dict[Path, str]:
    """Return the text of every page that is made, by its path in the repository."""
    architecture = (root / ARCHITECTURE).read_text(encoding="utf-8")
    return {
        Path("docs/reference/configuration.md"): configuration_page(),
        Path("docs/reference/commands.md"): commands_page(),
        ARCHITECTURE: with_folder_tables(architecture, root),
    }


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m docs_site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if a page is stale")
    options = parser.parse_args(arguments)
    status = 0
    for path, text in made_pages(root).items():
        place = root / path
        if place.is_file() and place.read_text(encoding="utf-8") == text:
            continue
        print(f"{path} is stale: run python -m docs_site" if options.check else f"{path} written")
        if options.check:
            status = 1
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
