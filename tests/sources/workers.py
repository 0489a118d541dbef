"""Processes that serve an application of these tests, on ports of their own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.bounds import WAIT
from tests.ports import free_port
from tests.signals import default_signals

HERE = Path(__file__).parent


class Worker:
    """One Uvicorn process, killed and started again on its port.

    Args:
        module: The module next to this one whose application it serves.
        directory: Where its log goes.
        number: Which of several it is.
        environment: What it is told besides.
    """

    def __init__(self, module: str, directory: Path, number: int, **environment: str) -> None:
        self.port = free_port()
        self.kills = 0
        self._log = directory / f"worker{number}.log"
        self._application = f"{module}:app"
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--app-dir", str(HERE), "--log-level", "warning", "--loop", "uvloop"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", self._application, *arguments],
                cwd=HERE,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=default_signals,
            )

    async def ready(self) -> None:
        while True:
            assert self._process is not None
            assert self._process.poll() is None, self.output()
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            await asyncio.sleep(0.02)

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(timeout=WAIT)

    def output(self) -> str:
        return self._log.read_text(errors="replace")
