"""Pages that are made from the code are those of today's code."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_site.__main__ import ROOT, made_pages, main


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a page of the architecture, one package, and nothing else."""
    (tmp_path / "docs").mkdir()
    block = "<!-- folders: shards -->\n<!-- end of folders -->\n"
    (tmp_path / "docs" / "architecture.md").write_text(f"# Architecture\n\n{block}")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__init__.py").write_text('"""The dataset."""\n')
    return tmp_path


def test_the_committed_pages_are_what_the_code_gives() -> None:
    for path, text in made_pages(ROOT).items():
        assert (ROOT / path).read_text() == text, f"{path} is stale: run python -m docs_site"


def test_the_check_names_stale_pages_and_writes_nothing(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (repository / "docs" / "architecture.md").read_text()
    assert main(["--check"], repository) == 1
    assert "docs/reference/commands.md is stale" in capsys.readouterr().out
    assert (repository / "docs" / "architecture.md").read_text() == before
    assert not (repository / "docs" / "reference").exists()


def test_after_writing_no_page_is_stale(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([], repository) == 0
    assert "docs/reference/configuration.md written" in capsys.readouterr().out
    assert main(["--check"], repository) == 0
    assert not capsys.readouterr().out
