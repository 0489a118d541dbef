"""The shape of the package: one direction of imports, and nothing done by importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import litestar_safe_sse
from litestar_safe_sse import sources

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
    "_wheel",
    "_writer",
    "_pump",
    "_slices",
    "_shutdown",
    "_registry",
    "context",
    "response",
    "plugin",
    "sources._subscription",
    "sources._cursor",
    "sources._stored",
    "sources.event_log",
    "sources._hub",
    "sources.memory",
    "sources._redis",
    "sources.redis_log",
    "sources._handover",
    "sources.redis_queue",
    "sources.redis_pubsub",
    "sources.channels",
]
"""Each file imports only from those above it, so nothing outside of ``sources`` from there."""

LITESTAR_FROM = "response"


PACKAGES = ("litestar_safe_sse", "litestar_safe_sse.sources")


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text())


def imports(module: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(names if node.module in PACKAGES else [node.module])
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return found


def test_every_file_has_its_place() -> None:
    """The order above names every file of the package."""
    files = {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")}
    assert {file for file in files if not file.endswith("__init__")} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_file_imports_only_from_above(module: str) -> None:
    """Imports go one way; the one exception is the backend that is loaded only where its loop runs."""
    above = set(ORDER[: ORDER.index(module)])
    own = {name.partition(".")[2] for name in imports(module) if name.startswith("litestar_safe_sse.")}
    allowed = above | ({"_tasks_trio"} if module == "_tasks" else set()) | types_only(module)
    assert own <= allowed


def types_only(module: str) -> set[str]:
    """What a file imports for type checkers alone."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom) and inner.module and inner.module.startswith("litestar_safe_sse."):
                    found.add(inner.module.partition(".")[2])
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


def test_the_sources_can_be_imported_without_redis() -> None:
    """By whoever uses none that needs it."""
    script = """
import sys
sys.modules["redis"] = None
from litestar_safe_sse.sources import MemoryEventLog, RedisEventLog
from litestar_safe_sse.exceptions import MissingExtraError
MemoryEventLog()
try:
    RedisEventLog("redis://localhost")
except MissingExtraError as error:
    assert "litestar-safe-sse[redis]" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.parametrize("package", [litestar_safe_sse, sources])
def test_every_public_name_is_there(package: ModuleType) -> None:
    """``__all__`` names what can be imported."""
    for name in package.__all__:
        assert getattr(package, name) is not None
