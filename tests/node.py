"""The npm packages that the tests read event streams with."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

__all__ = ("install_node_packages",)

TESTS = Path(__file__).parent


@cache
def install_node_packages() -> None:
    """Installs what ``tests/package.json`` names, unless it is there."""
    wanted = json.loads((TESTS / "package.json").read_text())["dependencies"]
    if all(installed(name) == version for name, version in wanted.items()):
        return
    options = ["--no-audit", "--no-fund", "--no-package-lock"]
    subprocess.run(["npm", "install", "--prefix", str(TESTS), *options], check=True, timeout=120)


def installed(name: str) -> str | None:
    """Returns the version of a package that is there."""
    manifest = TESTS / "node_modules" / name / "package.json"
    return str(json.loads(manifest.read_text())["version"]) if manifest.exists() else None
