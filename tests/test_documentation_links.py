"""Links and paths in the documentation lead to what is there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import Config
from tests.handwritten_figures import without_code_blocks

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
    *sorted((ROOT / "benchmarks" / "results").glob("*.md")),
    ROOT / "k8s" / "README.md",
]
PACKAGES = ("benchmarks", "docs", "docs_site", "k8s", "launch", "pipeline", "shards", "tests")

_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)
# --section.field; an option of one word is a verb's or torchrun's
_FIELD = re.compile(r"--(?P<name>[a-z]\w*(?:[-_]\w+)*(?:\.[a-z]\w*(?:[-_]\w+)*)+)")
_PATH = re.compile(r"`(?P<path>[\w.*-]+(?:/[\w.*-]+)+/?)`")


def links(text: str) -> list[str]:
    targets = [match["target"] for match in _LINK.finditer(without_code_blocks(text))]
    return [target for target in targets if "://" not in target]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    titles = [match["title"] for match in _HEADING.finditer(without_code_blocks(text))]
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in plain}


def broken_link(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = page.parent / name if name else page
    if not path.exists():
        return True
    return bool(anchor) and anchor not in anchors(path.read_text())


def paths_of_the_repository(text: str) -> list[str]:
    """Paths between backticks that begin with a package: others may be of a run or of a set."""
    paths = [match["path"] for match in _PATH.finditer(without_code_blocks(text))]
    return [path for path in paths if path.split("/")[0] in PACKAGES]


def fields_of(section: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of all fields, and of the sections that hold them."""
    for field in dataclasses.fields(section):
        name, value = prefix + field.name, getattr(section, field.name)
        yield name
        if dataclasses.is_dataclass(value):
            yield from fields_of(value, name + ".")


def missing_path(page: Path, path: str) -> bool:
    """Whether neither the repository, nor the page's folder, nor tests/ holds it."""
    folders = (ROOT, page.parent, ROOT / "tests")  # one page names tests by their place there
    return not any(any(folder.glob(path.rstrip("/"))) for folder in folders)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    assert not [target for target in links(page.read_text()) if broken_link(page, target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_backticks_exist(page: Path) -> None:
    paths = paths_of_the_repository(page.read_text())
    assert not [path for path in paths if missing_path(page, path)]


def test_every_page_of_docs_is_linked_from_another() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for target in links(page.read_text())
        if target.partition("#")[0]
    }
    assert not set((ROOT / "docs").rglob("*.md")) - linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_name_fields_of_the_configuration(page: Path) -> None:
    known = set(fields_of(Config()))
    named = [match["name"].replace("-", "_") for match in _FIELD.finditer(page.read_text())]
    assert not [name for name in named if name not in known]


@pytest.mark.parametrize(
    ("text", "target"),
    [("# A title", "no-such-page.md"), ("# A title", "#another-title")],
)
def test_a_link_to_nothing_is_found(tmp_path: Path, text: str, target: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert broken_link(page, target)
    assert not broken_link(page, "#a-title")


def test_a_path_to_nothing_is_found() -> None:
    paths = paths_of_the_repository(
        "`pipeline/step/training_step.py`, `pipeline/no_such.py`, `runs/mine/x`"
    )
    assert paths == ["pipeline/step/training_step.py", "pipeline/no_such.py"]
    assert [missing_path(ROOT / "README.md", path) for path in paths] == [False, True]
