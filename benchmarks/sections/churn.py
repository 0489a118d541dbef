"""Clients that come, see one event and leave."""

from __future__ import annotations

import time

from benchmarks.peers import FLOOR, OURS, PEERS
from benchmarks.sections import Options, all_running, title_of
from benchmarks.servers import ask_client, running
from benchmarks.tables import Table

__all__ = ("churn",)

AT_ONCE = 16
A_ROUND = 1000
WARM = 20_000
SETTLE = 1.0
BUILTIN = "litestar"


def churn(options: Options) -> list[Table]:
    """Cycles a second, and what is left after many of them."""
    tables = [_rate(options, server) for server in options.servers]
    if PEERS[OURS] in options.peers and options.cycles:
        tables.append(_growth(options))
    return tables


def _rate(options: Options, server: str) -> Table:
    table = Table(
        f"churn-{server}",
        f"Churn on {server.capitalize()}",
        ["cycles / raw", "cycles / Litestar", "per CPU s / raw", "per CPU s / Litestar"],
        f"Connect, read one event, RST; {AT_ONCE} at once. By the clock, which for the floor is the client's; and by "
        "the CPU time that the server used.",
        title_of(OURS),
        {"cycles / Litestar": 2.0, "per CPU s / Litestar": 2.0},
    )
    with all_running(options, server) as processes:
        for round_ in range(options.rounds):
            options.progress(f"churn, {server}, round {round_ + 1}")
            rates: dict[str, float] = {}
            costs: dict[str, float] = {}
            for name, process in processes.items():
                cpu = process.cpu()
                result = ask_client("churn", port=process.port, path="one", cycles=A_ROUND, at_once=AT_ONCE)
                rates[name] = result["cycles"] / result["elapsed"]
                time.sleep(0.1)  # for what it left behind
                costs[name] = process.cpu() - cpu
            for name, rate in rates.items():
                table.add(title_of(name), "cycles / raw", rate / rates[FLOOR])
                table.add(title_of(name), "per CPU s / raw", costs[FLOOR] / costs[name])
                if BUILTIN in rates:
                    table.add(title_of(name), "per CPU s / Litestar", costs[BUILTIN] / costs[name])
                    table.add(title_of(name), "cycles / Litestar", rate / rates[BUILTIN])
    return table


def _growth(options: Options) -> Table:
    server = options.servers[0]
    columns = ["KiB", "tasks", "descriptors"]
    table = Table(
        "growth",
        f"Growth after {options.cycles:,} cycles on {server.capitalize()}",
        columns,
        f"Against what there was after the first {WARM:,}.",
        title_of(OURS),
        {"KiB": -1024.0, "tasks": -0.0, "descriptors": -0.0},
    )
    options.progress(f"growth after {options.cycles:,} cycles")
    with running(PEERS[OURS], server) as process:

        def now_after(cycles: int) -> tuple[float, int, int]:
            while cycles > 0:
                ask_client("churn", port=process.port, path="one", cycles=min(cycles, 10_000), at_once=AT_ONCE)
                cycles -= 10_000
            time.sleep(SETTLE)
            stats = process.stats() or {}
            return process.memory() / 1024, stats["tasks"], stats["descriptors"]

        before = now_after(WARM)
        after = now_after(options.cycles)
        for column, was, is_ in zip(columns, before, after, strict=True):
            table.add(title_of(OURS), column, is_ - was, 0)
    return table
