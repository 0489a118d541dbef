"""The shape of the package: one direction of imports, and nothing done by importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import litestar_safe_sse

PACKAGE = Path(litestar_safe_sse.__file__).parent

ORDER = [
    "exceptions",
    "config",
    "_messages",
    "_encoding",
    "_state",
    "_tasks",
    "_tasks_trio",
    "_asyncgens",
    "_iteration",
    "_buffer",
    "_cleanup",
    "_doorway",
    "_flow",
    "_pump",
    "_slices",
    "_shutdown",
    "_registry",
    "context",
    "response",
    "plugin",
]
"""Each file imports only from those above it."""

LITESTAR_FROM = "response"


def imports(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(names if node.module == "litestar_safe_sse" else [node.module])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_every_file_has_its_place() -> None:
    """The order above names every file of the package."""
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert files == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_file_imports_only_from_above(module: str) -> None:
    """Imports go one way; the one exception is the backend that is loaded only where its loop runs."""
    above = set(ORDER[: ORDER.index(module)])
    own = {name.split(".")[1] for name in imports(module) if name.startswith("litestar_safe_sse.")}
    allowed = above | ({"_tasks_trio"} if module == "_tasks" else set()) | types_only(module)
    assert own <= allowed


def types_only(module: str) -> set[str]:
    """What a file imports for type checkers alone."""
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom) and inner.module and inner.module.startswith("litestar_safe_sse."):
                    found.add(inner.module.split(".")[1])
    return found


@pytest.mark.parametrize("module", ORDER[: ORDER.index(LITESTAR_FROM)])
def test_litestar_first_appears_at_the_response(module: str) -> None:
    """The core knows ASGI, and nothing of Litestar."""
    assert not {name for name in imports(module) if name == "litestar" or name.startswith("litestar.")}


def test_importing_the_package_loads_nothing_optional_and_hooks_nothing() -> None:
    """An import starts no thread, replaces no signal handler or hook, and loads no server and no trio."""
    script = """
import signal, sys, threading
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
import litestar_safe_sse
assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
assert sys.get_asyncgen_hooks() == (None, None)
assert threading.active_count() == 1
loaded = {name.partition(".")[0] for name in sys.modules}
optional = {"trio", "uvicorn", "granian", "hypercorn", "daphne", "twisted", "redis", "uvloop"}
assert not loaded & optional, loaded & optional
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_every_public_name_is_there() -> None:
    """``__all__`` names what can be imported."""
    for name in litestar_safe_sse.__all__:
        assert getattr(litestar_safe_sse, name) is not None
