"""Tables of folders hold each folder of a package, with the first sentence of its docstring."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs_site.folder_tables import folder_table, with_folder_tables

PAGE = "Before.\n<!-- folders: rooms -->\nan earlier table\n<!-- end of folders -->\nAfter.\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, text in (("rooms", "All of it.\n\nMore."), ("rooms/inner", "A part\nof it.")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(f'"""{text}"""\n')
    return tmp_path


def test_a_table_has_a_row_for_each_folder(root: Path) -> None:
    assert folder_table(root, "rooms")[2:] == [
        "| `rooms/` | All of it. |",
        "| `rooms/inner/` | A part of it. |",
    ]


def test_a_block_is_written_anew_in_its_place(root: Path) -> None:
    text = with_folder_tables(PAGE, root)
    assert text.startswith("Before.\n<!-- folders: rooms -->\n| folder |")
    assert text.endswith("| A part of it. |\n<!-- end of folders -->\nAfter.\n")
    assert with_folder_tables(text, root) == text


def test_a_package_that_does_not_exist_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match="cellar holds no package"):
        with_folder_tables(PAGE.replace("rooms", "cellar"), root)
