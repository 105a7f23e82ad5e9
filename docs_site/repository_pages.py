"""Pages of the site for files that lie outside docs/, and the links that lead to them.

The pages link to each other as files of the repository, so that they work on any git host. A page
of docs/ may link to `../benchmarks/README.md`. The site holds a copy of each such target below
`repository/`: Markdown and pictures as they are, any other text as a page that shows it, a folder
as a list of its files.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

COPIES = "repository"  # folder of the site
_DOCS = PurePosixPath("docs")
_PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".gif", ".webp"}
_SHOWN_CHARACTERS_MAX = 200_000  # of one file
# A fenced block, a piece of code in a line, or else the target of a link.
_LINK = re.compile(
    r"^[ \t]*(?P<fence>```+|~~~+).*?^[ \t]*(?P=fence)[ \t]*$"
    r"|(?P<ticks>`+)[^`\n]+(?P=ticks)"
    r"|\]\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class RepositoryPage:
    """A file of the site: its place in the site, and its text or the picture that is copied."""

    place: str
    text: str = ""
    picture: Path | None = None


def place_in_site(root: Path, path: PurePosixPath) -> str | None:
    """Return where the site has the file or folder `path`, or None if `root` holds no such file."""
    if not (root / path).exists() or ".." in path.parts:
        return None
    if path.is_relative_to(_DOCS):
        return str(path.relative_to(_DOCS))
    if (root / path).is_dir():
        name = "README.md" if (root / path / "README.md").exists() else "index.md"
        return f"{COPIES}/{path}/{name}"
    is_copied = path.suffix == ".md" or path.suffix.lower() in _PICTURES
    return f"{COPIES}/{path}" if is_copied else f"{COPIES}/{path}.md"


def path_in_repository(place: str) -> PurePosixPath:
    """Return which file a Markdown page of the site is in the repository."""
    inside = PurePosixPath(place)
    if inside.is_relative_to(COPIES):
        return inside.relative_to(COPIES)
    return _DOCS / inside


def linked_paths(text: str, page: PurePosixPath) -> list[PurePosixPath]:
    """Return the paths, from the root of the repository, that a page's links lead to."""
    found: list[PurePosixPath] = []
    _replace_links(text, page, lambda path: found.append(path))
    return found


def with_links_in_site(text: str, page: PurePosixPath, root: Path) -> str:
    """Return the page with each link to a file of the repository as one to its copy in the site.

    A link to what does not exist stays as it is, so that the site's own check finds it.
    """
    own = place_in_site(root, page) or str(page)

    def link(path: PurePosixPath) -> str | None:
        place = place_in_site(root, path)
        return place and posixpath.relpath(place, posixpath.dirname(own) or ".")

    return _replace_links(text, page, link)


def repository_pages(root: Path, first: Iterable[PurePosixPath]) -> dict[str, RepositoryPage]:
    """Return the copies by their places: of `first`, and of all that they and docs/ link to."""
    docs = [
        PurePosixPath(path.relative_to(root).as_posix())
        for path in sorted((root / _DOCS).rglob("*.md"))
    ]
    pages: dict[str, RepositoryPage] = {}
    waiting = [*first, *docs]
    while waiting:
        path = waiting.pop()
        place = place_in_site(root, path)
        if place is None or place in pages:
            continue
        if (root / path).is_dir() and place.endswith("/README.md"):
            path = path / "README.md"
        page = _page(root, path, place)
        if not path.is_relative_to(_DOCS):
            pages[place] = page
        if path.suffix == ".md":
            found = linked_paths((root / path).read_text(encoding="utf-8"), path)
            waiting += [one for one in found if not one.is_relative_to(_DOCS)]
    return pages


def _page(root: Path, path: PurePosixPath, place: str) -> RepositoryPage:
    file = root / path
    if file.is_dir():
        names = sorted(f"{one.name}/" if one.is_dir() else one.name for one in file.iterdir())
        listed = [f"- `{name}`" for name in names if not name.startswith((".", "__pycache__"))]
        return RepositoryPage(place, "\n".join([f"# {path}/", "", *listed]) + "\n")
    if path.suffix.lower() in _PICTURES:
        return RepositoryPage(place, picture=file)
    text = file.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return RepositoryPage(place, text)
    return RepositoryPage(place, _listing(path, text))


def _listing(path: PurePosixPath, text: str) -> str:
    cut = len(text) > _SHOWN_CHARACTERS_MAX
    note = ["Only the beginning is shown.", ""] if cut else []
    language = path.suffix.removeprefix(".").replace("py", "python") or "text"
    body = text[:_SHOWN_CHARACTERS_MAX].rstrip("\n")
    return "\n".join([f"# {path}", "", *note, f"~~~~~~{language}", body, "~~~~~~", ""])


def _replace_links(
    text: str, page: PurePosixPath, link: Callable[[PurePosixPath], str | None]
) -> str:
    """Return the text with the targets that `link` gives for paths; None leaves one as it is."""

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if not target or ":" in target or target.startswith("/"):
            return match[0]
        path = PurePosixPath(os.path.normpath(page.parent / target))
        new = link(path)
        return match[0] if new is None else f"]({new}{match['anchor'] or ''})"

    return _LINK.sub(replaced, text)
