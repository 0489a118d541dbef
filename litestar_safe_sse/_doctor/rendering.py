"""The report as a terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from litestar_safe_sse._doctor.findings import Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from litestar_safe_sse._doctor.findings import Fault, Finding, Report

__all__ = ("render",)

COLOURS = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.SICK: "bold red", Verdict.UNKNOWN: "magenta"}
SUMMARIES = {
    Verdict.OK: "[green]Healthy.[/]",
    Verdict.SICK: "[bold red]Sick.[/]",
    Verdict.UNKNOWN: "[magenta]Not all could be told.[/]",
}


def render(report: Report, console: Console) -> None:
    """Prints a report."""
    console.print(summary_table(report))
    told: set[Fault | None] = set()
    for finding in report.findings:
        if finding.remedies:
            console.print(f"\n{escape(as_line(finding))}")
            if finding.fault not in told:
                console.print(remedies_table(finding))
                told.add(finding.fault)
    console.print(SUMMARIES[report.verdict])


def summary_table(report: Report) -> Table:
    table = Table(title=escape(report.url), title_justify="left", show_lines=False)
    table.add_column("probe", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found")
    if report.direct is not None:
        table.add_column(f"at {escape(report.direct)}")
    for finding in report.findings:
        cells = [finding.probe, coloured(finding), escape(finding.says)]
        if report.direct is not None:
            cells.append(beside(finding))
        table.add_row(*cells)
    return table


def beside(finding: Finding) -> str:
    direct = finding.direct
    return "" if direct is None else f"{coloured(direct)}: {escape(direct.says)}"


def as_line(finding: Finding) -> str:
    seen = ", ".join(f"{name}: {value}" for name, value in finding.evidence.items())
    return f"{finding.probe}: {finding.says}" + (f" ({seen})" if seen else "")


def remedies_table(finding: Finding) -> Table:
    table = Table(show_header=False)
    for where, remedy in finding.remedies.items():
        table.add_row(where, escape(remedy))
    return table


def coloured(finding: Finding) -> str:
    return f"[{COLOURS[finding.verdict]}]{finding.verdict.value}[/]"
