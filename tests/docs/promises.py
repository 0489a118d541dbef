"""What the pages promise: by which tests each promise is kept, and what of the package breaks it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parents[1]
EXPLAINS = "(explains)"


def read_index() -> dict[str, dict[str, list[str]]]:
    """For each page, the phrases and the tests of each."""
    pages: dict[str, dict[str, list[str]]] = {}
    phrases: dict[str, list[str]] = {}
    tests: list[str] = []
    for line in (TESTS / "docs" / "promises.md").read_text().splitlines():
        if line.startswith("# "):
            phrases = pages[line[2:]] = {}
        elif line.startswith("- "):
            tests = phrases[line[2:]] = []
        elif line.startswith("  "):
            tests.append(line.strip())
    return pages


def read_promises() -> dict[str, list[str]]:
    """The phrases of all pages that promise something, and the tests of each."""
    return {phrase: tests for page in read_index().values() for phrase, tests in page.items() if tests != [EXPLAINS]}


class Change(NamedTuple):
    """Lines of a module of the package, and others in their place."""

    module: str
    old: str
    new: str

    def apply(self, package: Path) -> None:
        """Changes a copy of the package.

        Raises:
            ValueError: If the lines are not there, or more than once.
        """
        path = package / self.module
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"breaks.diff must name lines that {self.module} has once, not {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


class Break(NamedTuple):
    """Changes to the package that break promises, each named by its phrase."""

    changes: list[Change]
    promises: list[str]


def read_breaks() -> list[Break]:
    """What ``breaks.diff`` holds."""
    found: list[Break] = []
    for line in (TESTS / "docs" / "breaks.diff").read_text().splitlines():
        mark, rest = line[:1], line[1:]
        if mark == "@":
            if not found or found[-1].promises:
                found.append(Break([], []))
            found[-1].changes.append(Change(rest.strip(), "", ""))
        elif mark == "*":
            found[-1].promises.append(rest.strip())
        elif found and mark:
            module, old, new = found[-1].changes.pop()
            old += f"{rest}\n" if mark in " -" else ""
            new += f"{rest}\n" if mark in " +" else ""
            found[-1].changes.append(Change(module, old, new))
    return found
