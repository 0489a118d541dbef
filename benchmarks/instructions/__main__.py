"""``python -m benchmarks.instructions``: instructions an event and a request, against those of the baseline.

They hardly depend on what else the machine does, unlike times. They do depend on Python and on the libraries, which the
baseline names.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

HOME = Path(__file__).parent
BASELINE = HOME / "baseline.json"
TOLERANCE = 0.03
"""How much may be more, or less, than in the baseline."""

LIBRARIES = ("anyio", "litestar", "msgspec")

_NOTE = re.compile(r"^desc: Trigger: Client Request: (.+) (\d+)$", re.MULTILINE)
_TOTALS = re.compile(r"^totals: (\d+)$", re.MULTILINE)

Counts = dict[str, int]


class Baseline(NamedTuple):
    """What was counted, and by what."""

    versions: dict[str, str]
    instructions: Counts


def main() -> None:
    arguments = parser().parse_args()
    if arguments.write:
        write(Baseline(versions(), count()))
        return
    baseline = Baseline(**json.loads(BASELINE.read_text()))
    if differing := differences(baseline.versions, versions()):
        sys.exit(f"The baseline is of {differing}. Install that, or take a baseline of your own by --write.")
    counted = count()
    print(table(baseline.instructions, counted))
    if changed := changes(baseline.instructions, counted):
        sys.exit(
            f"{', '.join(changed)}: not within {TOLERANCE:.0%} of the baseline."
            " If that is meant, or better, take a new one by --write, and say why in its commit."
        )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    made.add_argument("--write", action="store_true", help=f"take a new baseline, into {BASELINE.name}")
    return made


def versions() -> dict[str, str]:
    """What the count depends on."""
    python = platform.python_version()
    return {"python": python, "machine": platform.machine(), **{name: version(name) for name in LIBRARIES}}


def differences(of_baseline: dict[str, str], here: dict[str, str]) -> str:
    """Names what is different here, as it should be; empty if nothing is."""
    return ", ".join(
        f"{name} {expected} (here: {here.get(name)})"
        for name, expected in of_baseline.items()
        if here.get(name) != expected
    )


def count() -> Counts:
    """Counts by Valgrind."""
    for tool in ("valgrind", "cc"):
        if shutil.which(tool) is None:
            sys.exit(f"This needs {tool}, which is not here: on Debian and Ubuntu, apt install valgrind gcc libc6-dev.")
    with TemporaryDirectory() as folder:
        library, profile = Path(folder, "counter.so"), Path(folder, "profile")
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, HOME / "counter.c"], check=True)
        driver = [sys.executable, "-m", "benchmarks.instructions.driver", str(library)]
        subprocess.run(
            ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={profile}", *driver],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        return per_unit(file.read_text() for file in Path(folder).glob("profile.*"))


def per_unit(profiles: Iterable[str]) -> Counts:
    """What one event, or one request, costs: the difference between many and few of them."""
    totals: dict[str, list[tuple[int, int]]] = {}
    for profile in profiles:
        note, total = _NOTE.search(profile), _TOTALS.search(profile)
        if note is not None and total is not None:
            totals.setdefault(note[1], []).append((int(note[2]), int(total[1])))
    return {name: _slope(*sorted(counts)) for name, counts in sorted(totals.items())}


def _slope(few: tuple[int, int], many: tuple[int, int]) -> int:
    return round((many[1] - few[1]) / (many[0] - few[0]))


def changes(before: Counts, now: Counts) -> list[str]:
    """The names of what has become dearer or cheaper, has come or has gone."""
    return [name for name in sorted({*before, *now}) if not _is_alike(before.get(name), now.get(name))]


def _is_alike(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and abs(now - before) <= TOLERANCE * before


def table(before: Counts, now: Counts) -> str:
    lines = ["| instructions | baseline | now | |", "| --- | --- | --- | --- |"]
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        change = f"{new / old - 1:+.1%}" if old and new else ""
        lines.append(f"| {name} | {old} | {new} | {change} |")
    return "\n".join(lines)


def write(baseline: Baseline) -> None:
    BASELINE.write_text(json.dumps(baseline._asdict(), indent=1) + "\n")
    print(f"{BASELINE}: {len(baseline.instructions)} figures")


if __name__ == "__main__":
    main()
