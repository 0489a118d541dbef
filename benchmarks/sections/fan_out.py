"""Ten thousand streams in one worker, from their opening to a SIGTERM."""

from __future__ import annotations

import resource
import signal
import subprocess
import time

from benchmarks.peers import OURS, Peer
from benchmarks.sections import Options, title_of
from benchmarks.servers import client, running
from benchmarks.tables import Table
from benchmarks.workload import CLEANED

__all__ = ("fan_out",)

COLUMNS = ["streams", "opened in s", "KiB a stream", "CPU s while held", "one event to all, s", "ended in s", "cleaned"]
PATIENCE = 20.0
SPARE = 100
"""Descriptors for all else."""


def fan_out(options: Options) -> list[Table]:
    """Opened, held, told one event, and ended with the server."""
    server = options.servers[0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    streams = min(options.fan_out, hard - SPARE)
    table = Table(
        "fan-out",
        f"Fan-out on {server.capitalize()}",
        COLUMNS,
        f"Streams of one worker, held for {options.hold:g} s and beating, then sent one event each; then SIGTERM, with "
        f"{PATIENCE:g} s to end. *Cleaned*: the `finally` blocks that had run by then.",
        title_of(OURS),
    )
    try:
        for peer in options.asgi():
            if peer.name != "raw-joined":
                options.progress(f"fan-out: {peer.name}")
                _measure(options, server, peer, streams, table)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return [table]


def _measure(options: Options, server: str, peer: Peer, streams: int, table: Table) -> None:
    row = title_of(peer.name)
    with running(peer, server) as process:
        memory = process.memory()
        with client("hold", port=process.port, path="fan", streams=streams) as tell:
            opened = tell()
            table.add(row, "streams", opened["streams"], 0)
            table.add(row, "opened in s", opened["opened"], 1)
            table.add(row, "KiB a stream", (process.memory() - memory) / 1024 / opened["streams"], 1)
            cpu = process.cpu()
            tell(f"beats {options.hold}")
            table.add(row, "CPU s while held", process.cpu() - cpu)
            table.add(row, "one event to all, s", tell("event")["elapsed"])
            before = time.monotonic()
            process.popen.send_signal(signal.SIGTERM)
            try:
                output, _ = process.popen.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                return
            table.add(row, "ended in s", time.monotonic() - before)
            table.add(row, "cleaned", output.decode().count(CLEANED), 0)
