"""Pages of the API: one for each folder of `shards` and `pipeline`, filled in by mkdocstrings."""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("shards", "pipeline")
FOLDER = "reference/api"
_HEAD = """\
# API

Made from the signatures and docstrings of the code. The [architecture](../../architecture.md)
says how the folders use each other. Names may change between versions; the command line,
the configuration and the files of sets and runs do not change without a word in the changelog.
"""


def api_pages(root: Path) -> dict[str, str]:
    """Return the text of each page by its place in the site, the list of all pages first."""
    pages: dict[str, str] = {}
    lines = [_HEAD]
    for package in PACKAGES:
        lines += [f"## {package}", ""]
        for init in sorted((root / package).rglob("__init__.py")):
            name = ".".join(init.parent.relative_to(root).parts)
            lines.append(f"- [`{name}`]({name}.md)")
            pages[f"{FOLDER}/{name}.md"] = _page(root, init.parent, name)
        lines.append("")
    return {f"{FOLDER}/index.md": "\n".join(lines), **pages}


def api_navigation(root: Path) -> list[dict[str, str | list[dict[str, str]]]]:
    """Return the entries for the navigation: the list, then the pages of each package."""
    entries: list[dict[str, str | list[dict[str, str]]]] = [{"All folders": f"{FOLDER}/index.md"}]
    places = list(api_pages(root))[1:]
    for package in PACKAGES:
        names = {place: Path(place).name.removesuffix(".md") for place in places}
        own = [{name: place} for place, name in names.items() if name.split(".")[0] == package]
        entries.append({package: list(own)})
    return entries


def _page(root: Path, folder: Path, name: str) -> str:
    modules = sorted(
        ".".join(path.relative_to(root).with_suffix("").parts)
        for path in folder.glob("*.py")
        if path.name != "__init__.py"
    )
    # The package itself gives its docstring alone: its members are modules with pages.
    own = f"::: {name}\n    options:\n      show_root_heading: false\n      members: false\n"
    return "\n".join([f"# `{name}`", "", own, *(f"::: {module}\n" for module in modules)])
