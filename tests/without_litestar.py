"""A plugin of pytest that blocks Litestar from import: ``pytest -p tests.without_litestar``.

What the package itself exports is then imported from where it is defined, so that its faces, which need Litestar, stay
out.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

NAME = "litestar_safe_sse"


def exports(source: str) -> dict[str, str]:
    """Returns the module of each name that a package imports."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports for alias in node.names if node.module is not None}


def block_litestar() -> None:
    """Makes every import of Litestar fail, and of the package one that imports nothing by itself."""
    spec = importlib.util.find_spec(NAME)
    assert spec is not None
    assert spec.origin is not None
    modules = exports(Path(spec.origin).read_text())

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(name)
        return getattr(importlib.import_module(modules[name]), name)

    package = types.ModuleType(NAME)
    package.__path__ = list(spec.submodule_search_locations or ())
    package.__getattr__ = find  # type: ignore[method-assign]
    sys.modules[NAME] = package
    sys.modules["litestar"] = None  # type: ignore[assignment]


block_litestar()
