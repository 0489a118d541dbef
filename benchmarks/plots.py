"""Tables whose columns are sizes, drawn: how a figure grows, or that it stays flat, is best seen."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.tables import Table

__all__ = ("plot",)

COLORS = ("#7a869a", "#0b7285", "#c2571a", "#8a4fbf")
"""The floor's, ours, and those of more rows; all to be told from a light and from a dark page."""


def plot(table: Table, target: Path) -> None:
    """Draws each row of a table as a line, on a transparent ground.

    Args:
        table: The table.
        target: The SVG file to write.
    """
    lines = {row: cells for row, cells in table.rows.items() if row not in table.undrawn}
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for (row, cells), color in zip(lines.items(), COLORS, strict=False):
        columns = [column for column in table.columns if column in cells]
        axes.plot(
            columns,
            [cells[column].middle for column in columns],
            marker="o",
            color=color,
            label=row.replace("`", "").replace("*", ""),
        )
    axes.set_ylim(bottom=0)
    axes.set_ylabel(table.note.partition(";")[0].partition(".")[0], color=COLORS[0])
    axes.tick_params(colors=COLORS[0])
    axes.grid(axis="y", alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, labelcolor="linecolor")
    # Nothing that changes from run to run but the figures.
    figure.savefig(target, transparent=True, metadata={"Date": None, "Creator": None})
