"""Links that leave docs/ lead to copies in the site; links to nothing stay as they are."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from docs_site.repository_pages import (
    linked_paths,
    path_in_repository,
    place_in_site,
    repository_pages,
    with_links_in_site,
)

PAGE = PurePosixPath("docs/page.md")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository: docs/page.md links to measure/README.md, which links further."""
    files = {
        "README.md": "# Project\n",
        "docs/page.md": "[how](../measure/README.md#how)\n",
        "docs/reference/other.md": "# Other\n",
        "measure/README.md": "[a](results/) [b](plot.png) [c](code.py) [d](../docs/page.md)\n",
        "measure/results/one.json": "{}\n",
        "measure/plot.png": "not really a picture",
        "measure/code.py": 'print("~~~")\n',
        "measure/unlinked.md": "# Unlinked\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("docs/page.md", "page.md"),
        ("README.md", "repository/README.md"),
        ("measure", "repository/measure/README.md"),
        ("measure/results", "repository/measure/results/index.md"),
        ("measure/plot.png", "repository/measure/plot.png"),
        ("measure/code.py", "repository/measure/code.py.md"),
        ("measure/missing.py", None),
        ("../outside.md", None),
    ],
)
def test_each_file_has_one_place_in_the_site(root: Path, path: str, place: str | None) -> None:
    assert place_in_site(root, PurePosixPath(path)) == place


@pytest.mark.parametrize(
    ("page", "target", "in_site"),
    [
        ("docs/page.md", "../README.md", "repository/README.md"),
        ("docs/page.md", "../measure/README.md#how", "repository/measure/README.md#how"),
        ("docs/page.md", "reference/other.md", "reference/other.md"),
        ("docs/reference/other.md", "../page.md", "../page.md"),
        ("docs/reference/other.md", "../../README.md", "../repository/README.md"),
        ("measure/README.md", "../docs/page.md#top", "../../page.md#top"),
        ("measure/README.md", "code.py", "code.py.md"),
        ("docs/page.md", "../measure/missing.py", "../measure/missing.py"),
        ("docs/page.md", "#top", "#top"),
        ("docs/page.md", "https://example.com/a.md", "https://example.com/a.md"),
    ],
)
def test_a_link_leads_to_the_place_of_its_file(
    root: Path, page: str, target: str, in_site: str
) -> None:
    text = with_links_in_site(f"See [it]({target}).", PurePosixPath(page), root)
    assert text == f"See [it]({in_site})."


@pytest.mark.parametrize(
    "text",
    ["```\n[x](../README.md)\n```\n", "  ~~~sh\n[x](../README.md)\n  ~~~\n", "`[x](../README.md)`"],
)
def test_code_is_left_alone(root: Path, text: str) -> None:
    assert with_links_in_site(text, PAGE, root) == text
    assert not linked_paths(text, PAGE)


def test_code_in_the_text_of_a_link_does_not_hide_its_target() -> None:
    assert linked_paths("[`measure/`](../measure/README.md)", PAGE) == [
        PurePosixPath("measure/README.md")
    ]


def test_the_site_has_what_is_linked_directly_or_through_other_pages(root: Path) -> None:
    pages = repository_pages(root, [PurePosixPath("README.md")])
    assert set(pages) == {
        "repository/README.md",
        "repository/measure/README.md",
        "repository/measure/results/index.md",
        "repository/measure/plot.png",
        "repository/measure/code.py.md",
    }
    assert pages["repository/measure/plot.png"].picture == root / "measure" / "plot.png"
    assert "- `one.json`" in pages["repository/measure/results/index.md"].text
    assert '~~~~~~python\nprint("~~~")\n~~~~~~' in pages["repository/measure/code.py.md"].text


@pytest.mark.parametrize(
    ("place", "path"),
    [("page.md", "docs/page.md"), ("repository/measure/README.md", "measure/README.md")],
)
def test_a_page_of_the_site_knows_its_file(place: str, path: str) -> None:
    assert path_in_repository(place) == PurePosixPath(path)
