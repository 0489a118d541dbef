"""Paths for Unix sockets, whose length the kernel bounds (unix(7): 108 bytes, 104 on BSD and macOS)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory


@contextlib.contextmanager
def unix_socket_path() -> Iterator[str]:
    """A path that is free, and short: pytest's own directories can be too deep, as where nox sets ``TMPDIR``."""
    with TemporaryDirectory(prefix="sse-") as directory:
        yield str(Path(directory, "socket"))
