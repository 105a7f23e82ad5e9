"""Every module of shards and pipeline is on one page of the API."""

from __future__ import annotations

from docs_site.__main__ import ROOT
from docs_site.api_pages import PACKAGES, api_navigation, api_pages


def test_every_module_is_on_the_page_of_its_folder() -> None:
    pages = api_pages(ROOT)
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            folder = ".".join(path.parent.relative_to(ROOT).parts)
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            named = f"::: {module.removesuffix('.__init__')}\n"
            assert named in pages[f"reference/api/{folder}.md"], path


def test_the_navigation_leads_to_every_page() -> None:
    shown = str(api_navigation(ROOT))
    assert not [place for place in api_pages(ROOT) if f"'{place}'" not in shown]
