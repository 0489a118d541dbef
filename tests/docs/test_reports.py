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
def test_every_cell_is_clean(matrix: str) -> None:
    """The README says so, of both matrices."""
    assert f"### {matrix}\n" in (REPORTS / f"{matrix}-safe.md").read_text()
    assert [cell for cell in counts(f"{matrix}-safe.md") if cell[0] != cell[1]] == []


def test_the_matrices_are_large() -> None:
    """A table of a partial run would prove little."""
    assert sum(visits for _, visits in counts("leaving-safe.md")) > 10_000
