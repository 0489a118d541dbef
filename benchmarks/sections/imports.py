"""What the package adds to an application's start."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from benchmarks.sections import Options
from benchmarks.servers import ROOT
from benchmarks.tables import Table

__all__ = ("imports",)

CODE = """
from time import process_time as now
began = now()
import litestar
between = now()
import litestar_safe_sse
print(between - began, now() - between)
"""
REPEATS = 5


def imports(options: Options) -> list[Table]:
    """`import litestar_safe_sse` after `import litestar`."""
    litestar, ours = columns = ["`import litestar`, ms", "`import litestar_safe_sse` adds, ms"]
    row = "time"
    table = Table("imports", "Import time", columns, "CPU time, with compiled bytecode in place.", row, {ours: -30.0})
    command = [sys.executable, "-c", CODE]
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for repeat in range(options.rounds * REPEATS + 1):
            output = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
            ).stdout
            if repeat:  # the first one writes the bytecode
                for column, seconds in zip((litestar, ours), output.split(), strict=True):
                    table.add(row, column, 1000 * float(seconds), 1)
    return [table]
