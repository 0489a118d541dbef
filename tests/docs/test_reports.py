"""What the documentation claims is in the tables that the tests wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPORTS = Path(__file__).parents[2] / "docs" / "_reports"


def counts(report: str) -> list[tuple[int, int]]:
    """How many were cleaned up of how many visits, of each cell."""
    cells = re.findall(r"\| (\d+)/(\d+)", (REPORTS / report).read_text())
    return [(int(cleaned), int(visits)) for cleaned, visits in cells]


@pytest.mark.parametrize("matrix", ["leaving", "shutdown"])
def test_both_matrices_are_there(matrix: str) -> None:
    """Neither half of the README's claim is without its table."""
    assert f"### {matrix}\n" in (REPORTS / "matrices-safe.md").read_text()


def test_every_cell_is_clean() -> None:
    """The README says so."""
    assert [cell for cell in counts("matrices-safe.md") if cell[0] != cell[1]] == []
    assert sum(visits for _, visits in counts("matrices-safe.md")) > 10_000
