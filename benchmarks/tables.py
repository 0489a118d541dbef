"""Ratios with their spread, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

__all__ = ("Cell", "Table", "percentile")


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


@dataclass
class Cell:
    """One figure: its rounds."""

    rounds: list[float] = field(default_factory=list)
    digits: int = 2

    @property
    def middle(self) -> float:
        return median(self.rounds)

    def __str__(self) -> str:
        if not self.rounds:
            return "-"
        middle, low, high = (self._number(value) for value in (self.middle, min(self.rounds), max(self.rounds)))
        return middle if len(self.rounds) == 1 or low == high else f"{middle} ({low} to {high})"

    def _number(self, value: float) -> str:
        if self.digits == 0 or abs(value) >= 100:
            return f"{value:,.0f}"
        return f"{value:.{1 if abs(value) >= 10 else self.digits}f}"


@dataclass
class Table:
    """One section's result.

    Attributes:
        name: The section, for file names.
        title: What it shows.
        columns: The headings.
        rows: The cells of each row, under its title.
        ours: The title of our row.
        targets: For each column that has one, what ours must reach: the least, or the most if negative.
        note: What a reader has to know.
        drawn: Whether it is drawn too: its columns are sizes, and its note begins with what the figures are.
        undrawn: Rows whose figures are others.
    """

    name: str
    title: str
    columns: list[str]
    note: str = ""
    ours: str = ""
    targets: dict[str, float] = field(default_factory=dict)
    drawn: bool = False
    undrawn: tuple[str, ...] = ()
    rows: dict[str, dict[str, Cell]] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float, digits: int = 2) -> None:
        self.rows.setdefault(row, {}).setdefault(column, Cell(digits=digits)).rounds.append(value)

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", *([self.note, ""] if self.note else [])]
        lines += _table(["", *self.columns], ([row, *self._cells(cells)] for row, cells in self.rows.items()))
        if self.targets and self.ours in self.rows:
            lines += ["", *_table(["", *self.targets], self._verdict())]
        return "\n".join(lines) + "\n"

    def _cells(self, cells: dict[str, Cell]) -> list[str]:
        return [str(cells.get(column, Cell())) for column in self.columns]

    def _verdict(self) -> list[list[str]]:
        target, verdict = ["target"], ["ours"]
        for column, bound in self.targets.items():
            cell = self.rows[self.ours].get(column)
            target.append(f"≤ {-bound:g}" if bound < 0 else f"≥ {bound:g}")
            if cell is None:
                verdict.append("-")
                continue
            passed = cell.middle <= -bound if bound < 0 else cell.middle >= bound
            verdict.append(f"{'pass' if passed else '**miss**'}: {cell._number(cell.middle)}")
        return [target, verdict]

    def as_data(self) -> dict[str, Any]:
        return asdict(self)


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
