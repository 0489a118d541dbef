"""The pages on how it works are those of the code: the table of stops, and what of others is reached into."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import litestar_safe_sse
from litestar_safe_sse._core.state import ACTIONS, Action, Cause, StreamState

ROOT = Path(__file__).parents[2]
LIFECYCLE = (ROOT / "docs" / "lifecycle.md").read_text()
PRIVATE = (ROOT / "docs" / "architecture.md").read_text().partition("## What of others is reached into")[2]
PACKAGE = Path(litestar_safe_sse.__file__).parent
MODULES = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}

SERVERS = r"(?:uvicorn|granian|hypercorn|daphne|twisted)\.[\w.]+"
PYTHONS = {"f_back", "f_globals", "f_locals", "cr_frame", "cr_await", "ag_frame", "__closure__", "__self__", "__func__"}
NOBODYS = {"_replace", "_fields", "_litestar_safe_sse"}
"""What named tuples have, and a key of our own."""


def test_table_of_stops_is_that_of_the_code() -> None:
    """What a stream does about a cause in a state is what the page says."""
    table = LIFECYCLE.partition("<!-- the table of stops -->\n")[2].partition("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]
    causes = [Cause(cell) for cell in head[1:]]
    shown = {
        (StreamState[row[0].strip("`")], cause): Action(cell)
        for row in rows
        for cause, cell in zip(causes, row[1:], strict=True)
    }
    assert shown == {(s, c): ACTIONS.get((s, c), Action.NOTHING) for s in StreamState for c in Cause}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@functools.cache
def own_names() -> set[str]:
    """Every name that the package gives to anything."""
    names: set[str] = set()
    for node in (node for module in MODULES for node in ast.walk(tree_of(module))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def reached_into(tree: ast.Module, own: set[str]) -> Iterator[str]:
    """What a module names that is not its own, nor public: attributes, also as text, and modules of servers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        else:
            continue
        is_private = re.fullmatch(r"_[a-z]\w*", name) is not None and name not in own | NOBODYS
        if is_private or name in PYTHONS or re.fullmatch(SERVERS, name):
            yield name


@pytest.mark.parametrize("module", sorted(MODULES))
def test_what_of_others_is_reached_into_is_in_the_table(module: str) -> None:
    """Nobody finds out by a failure that something private was relied on."""
    named = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`]+)`", PRIVATE))))
    named |= {part for name in named for part in name.split(".") if part}
    assert set(reached_into(tree_of(module), own_names())) - named == set()


def test_what_is_reached_into_is_guarded() -> None:
    """Each line of the table names a test, and there is that test."""
    rows = re.findall(r"^\| (?!whose|---).*$", PRIVATE, re.MULTILINE)
    assert rows
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert tests, row
        for path, test in tests:
            assert re.search(rf"^(?:async )?def {test}\(", (ROOT / path).read_text(), re.MULTILINE), row
