"""Texts of the code stay what they are on a page."""

from __future__ import annotations

import pytest

from docs_site.markdown import code, prose, table


@pytest.mark.parametrize(
    ("text", "on_the_page"),
    [
        ("completion.encoder.*", r"completion.encoder.\*"),
        ("pack.crop_size", "pack.crop_size"),
        ("the private _name", r"the private \_name"),
        ("<folder>", r"\<folder>"),
        ("`a * b` of *c*", r"`a * b` of \*c\*"),
        ("a lone ` and a *", r"a lone \` and a \*"),
    ],
)
def test_what_would_be_markup_is_escaped_outside_of_code(text: str, on_the_page: str) -> None:
    assert prose(text) == on_the_page


def test_a_bar_does_not_end_a_cell() -> None:
    assert table(("a", "b"), [("x|y", code(""))])[2] == r"| x\|y |  |"
