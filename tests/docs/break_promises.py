"""Breaks each promise in a copy of the package, and looks whether one of its tests fails.

``promises.md`` names the tests, and ``breaks.diff`` what breaks each promise. Words that follow on the command line
choose among the promises.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory

from tests.docs.promises import TESTS, Break, read_breaks, read_promises
from tests.signals import default_signals

ROOT = TESTS.parent
COPIED = ("litestar_safe_sse", "pytest_litestar_safe_sse", "tests", "docs", "example_app", "pyproject.toml")

AT_ONCE = 2
"""Copies that are tested at the same time."""

PATIENCE = 10.0
"""Seconds for which tests wait there for what no longer comes."""

SILENCE = 30.0
"""Seconds in which no test ends, after which the one under way is interrupted, and has failed."""

SLOW = ("servers/", "integration/", "sources/", "docs/")
"""Tests that are run after all others."""

_times = count(1_000_000_000)


class Copy:
    """A copy of the project, in which one promise after the other is broken."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._package = directory / "litestar_safe_sse"
        for name in COPIED:
            source, target = ROOT / name, directory / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules", "_build", "__pycache__"))
            else:
                shutil.copy(source, target)
        bounds = directory / "tests" / "bounds.py"
        bounds.write_text(re.sub(r"^WAIT = .*", f"WAIT = {PATIENCE}", bounds.read_text(), flags=re.MULTILINE))
        if (TESTS / "node_modules").exists():
            (directory / "tests" / "node_modules").symlink_to((TESTS / "node_modules").resolve())

    def survivors(self, broken: Break) -> list[str]:
        """Breaks promises, and returns those of which no test fails."""
        modules = {change.module: self._package / change.module for change in broken.changes}
        whole = {path: path.read_text() for path in modules.values()}
        try:
            for change in broken.changes:
                change.apply(self._package)
            self._touch(whole)
            return self._test({promise: PROMISES[promise] for promise in broken.promises})
        finally:
            for path, text in whole.items():
                path.write_text(text)
            self._touch(whole)

    def _touch(self, paths: Iterable[Path]) -> None:
        """Has Python compile modules again, for which it looks at the second in which they were written."""
        now = next(_times)
        for path in paths:
            os.utime(path, (now, now))

    def _test(self, left: dict[str, list[str]]) -> list[str]:
        while left:
            tests = dict.fromkeys(test for tests in left.values() for test in tests)
            ordered = sorted(tests, key=lambda test: test.startswith(SLOW))
            failed = self._first_failure(ordered) or self._first_failure(ordered, "-m", "long")
            if failed is None:
                break
            left = {promise: tests for promise, tests in left.items() if failed not in tests}
        return [*left]

    def _first_failure(self, tests: Iterable[str], *more: str) -> str | None:
        """Runs tests until one fails, and returns its name."""
        options = ("-x", "-v", "-rfE", "--tb=no", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist")
        command = [sys.executable, "-m", "pytest", *options, *more, *(f"tests/{test}" for test in tests)]
        environment = {**os.environ, "PYTHONPATH": str(self._directory), "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(
            command,
            cwd=self._directory,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=default_signals,
            start_new_session=True,
        ) as process:
            output = "".join(self._read(process))
        if failed := re.findall(r"^(?:FAILED|ERROR) tests/([^\s:]+(?:::\w+)+)", output, re.MULTILINE):
            return str(failed[0])
        if process.returncode < 0 or "KeyboardInterrupt" in output:  # it was silent
            return str(re.findall(r"^tests/([^\s:]+(?:::\w+)+)", output, re.MULTILINE)[-1])
        if process.returncode not in (0, 5):  # 5: none was chosen
            raise RuntimeError(f"no test could be run:\n{output}")
        return None

    def _read(self, process: subprocess.Popen[bytes]) -> Iterator[str]:
        """Reads what pytest writes; interrupts it when it has been silent for too long."""
        assert process.stdout is not None
        interrupted = False
        while True:
            if not select.select([process.stdout], [], [], SILENCE)[0]:
                process.kill() if interrupted else process.send_signal(signal.SIGINT)
                interrupted = True
            elif chunk := os.read(process.stdout.fileno(), 65536):
                yield chunk.decode(errors="replace")
            else:
                return


PROMISES = read_promises()


def main(words: list[str]) -> int:
    """Breaks the promises that have one of the words, or all."""
    chosen = [each for each in read_breaks() if not words or any(w in p for w in words for p in each.promises)]
    survived = 0
    with TemporaryDirectory() as directory, ThreadPoolExecutor(AT_ONCE) as pool:
        copies: SimpleQueue[Copy] = SimpleQueue()
        for number in range(AT_ONCE):
            copies.put(Copy(Path(directory, str(number))))

        def test(broken: Break) -> tuple[Break, list[str], float]:
            copy, begun = copies.get(), time.monotonic()
            try:
                return broken, copy.survivors(broken), time.monotonic() - begun
            finally:
                copies.put(copy)

        for broken, survivors, seconds in pool.map(test, chosen):
            survived += len(survivors)
            print(f"{seconds:5.1f} s  {broken.changes[0].module}: {'; '.join(broken.promises)}", flush=True)
            for promise in survivors:
                print(f"         NO TEST FAILS: {promise}\n{broken.changes[-1].new}", flush=True)
    print(f"{len(chosen)} breaks, {sum(len(each.promises) for each in chosen)} promises, {survived} without a test")
    return bool(survived)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
