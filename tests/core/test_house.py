"""The shape of the package: one direction of imports, and nothing done by importing it."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

import litestar_safe_sse
from litestar_safe_sse import sources
from tests.bounds import START

PACKAGE = Path(litestar_safe_sse.__file__).parent
NAME = PACKAGE.name

WINGS = ("exceptions", "config", "_runtime", "_servers", "_core", "context", "_litestar", "sources", "faces")
"""Each imports only from itself and from those before it. The faces are the files at the top, which users import."""

KNOW_LITESTAR = ("_litestar", "faces", "sources.channels", "sources.redis.plugin")

Imports = dict[str, set[str]]


def modules() -> dict[str, Path]:
    """Every module of the package, by its name within it."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def wing_of(module: str) -> str:
    top = module.partition(".")[0]
    return top if top in WINGS else "faces"


def imported(node: ast.AST) -> set[str]:
    """The modules that a tree imports, those of the package by their name within it."""
    found: set[str] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and inner.module is not None:
            own = inner.module.removeprefix(NAME).lstrip(".") if inner.module.split(".")[0] == NAME else None
            if own is None:
                found.add(inner.module)
                continue
            for alias in inner.names:
                name = f"{own}.{alias.name}".lstrip(".")
                found.add(f"{NAME}.{name if name in MODULES else own}".rstrip("."))
        elif isinstance(inner, ast.Import):
            found.update(alias.name for alias in inner.names)
    return found


def imports_of(module: str, *, types: bool) -> set[str]:
    """What a module imports, with or without what is for type checkers alone."""
    tree = ast.parse(MODULES[module].read_text())
    if not types:
        tree.body = [node for node in tree.body if not is_for_type_checkers(node)]
    return imported(tree)


def is_for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(names: set[str]) -> set[str]:
    return {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.")}


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_arrows_run_one_way(module: str) -> None:
    """A wing imports only from those below it, for type checkers too."""
    below = WINGS[: WINGS.index(wing_of(module)) + 1]
    assert {wing_of(name) for name in own(imports_of(module, types=True))} <= set(below)


def test_there_is_no_circle() -> None:
    """No module needs itself, by way of others, be it for type checkers only."""
    TopologicalSorter({module: own(imports_of(module, types=True)) for module in MODULES}).prepare()


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_litestar_is_known_to_the_faces(module: str) -> None:
    """The core knows ASGI, and nothing of Litestar."""
    knows = any(name.partition(".")[0] == "litestar" for name in imports_of(module, types=True))
    assert not knows or module in KNOW_LITESTAR or wing_of(module) in KNOW_LITESTAR


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
optional = {"trio", "uvicorn", "granian", "hypercorn", "daphne", "twisted", "redis", "asyncpg", "pytest", "uvloop"}
assert not loaded & optional, loaded & optional
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)


def test_the_sources_can_be_imported_without_what_some_need() -> None:
    """By whoever uses none of those."""
    script = """
import sys
sys.modules["redis"] = sys.modules["asyncpg"] = None
from litestar_safe_sse.sources import MemoryEventLog, PostgresEventLog, RedisEventLog
from litestar_safe_sse.exceptions import MissingExtraError
assert "pytest" not in sys.modules
MemoryEventLog()
for make, address, extra in (
    (RedisEventLog, "redis://localhost", "litestar-safe-sse[redis]"),
    (PostgresEventLog, "postgresql://localhost", "litestar-safe-sse[postgres]"),
):
    try:
        make(address)
    except MissingExtraError as error:
        assert extra in str(error)
    else:
        raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=START)


@pytest.mark.parametrize("package", [litestar_safe_sse, sources])
def test_every_public_name_is_there(package: ModuleType) -> None:
    """``__all__`` names what can be imported."""
    for name in package.__all__:
        assert getattr(package, name) is not None


def test_version_is_that_of_the_metadata() -> None:
    """It is said once, in pyproject.toml."""
    assert litestar_safe_sse.__version__ == version("litestar-safe-sse")
    with pytest.raises(AttributeError, match="no attribute '__revision__'"):
        litestar_safe_sse.__revision__  # type: ignore[attr-defined]  # noqa: B018
