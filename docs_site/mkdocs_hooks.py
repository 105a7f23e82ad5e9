"""Hooks of MkDocs: add the pages that docs/ does not hold, and lead links to them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # MkDocs loads this file by its path

from docs_site.api_pages import FOLDER, api_navigation, api_pages  # noqa: E402
from docs_site.repository_pages import (  # noqa: E402
    COPIES,
    path_in_repository,
    repository_pages,
    with_links_in_site,
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace the entry of the API in the navigation by its pages."""
    config.nav = _with_api(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the API and the copies of files outside docs/."""
    for place, text in api_pages(ROOT).items():
        files.append(File.generated(config, place, content=text))
    first = [
        path_in_repository(place) for place in _places(config.nav) if place.startswith(f"{COPIES}/")
    ]
    for page in repository_pages(ROOT, first).values():
        if page.picture is None:
            files.append(File.generated(config, page.place, content=page.text))
        else:
            files.append(File.generated(config, page.place, abs_src_path=str(page.picture)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Lead the links of a page to the copies in the site."""
    place = page.file.src_uri
    if place.startswith(f"{FOLDER}/"):
        return markdown
    return with_links_in_site(markdown, path_in_repository(place), ROOT)


def _with_api(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_with_api(one) for one in entry]
    if isinstance(entry, dict):
        return {title: _with_api(inside) for title, inside in entry.items()}
    return api_navigation(ROOT) if entry == f"{FOLDER}/index.md" else entry


def _places(entry: Any) -> list[str]:
    """Return the pages that the navigation names."""
    if isinstance(entry, str):
        return [entry]
    inside = entry.values() if isinstance(entry, dict) else entry
    return [place for one in inside for place in _places(one)]
