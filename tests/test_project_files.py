"""The files that readers of a repository look for say the same as the package."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_version_licence_and_the_paper(project: dict[str, Any]) -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["references"][0]["doi"] == "10.1145/3072959.3073659"


def test_hooks_run_what_is_installed_and_fetch_nothing() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    assert {hook["language"] for hook in repositories[0]["hooks"]} == {"system"}


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    ]
    assert headings[0] == "## Unreleased"


def test_at_most_ten_words_of_our_own_are_kept() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Words that are kept")[1]
    rows = [line for line in section.split("\n## ")[0].splitlines() if line.startswith("| ")]
    assert 1 <= len(rows) - 2 <= 10
