"""``python -m benchmarks``: all peers side by side, as Markdown tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from benchmarks.peers import FLOOR, OURS, PEERS
from benchmarks.plots import plot
from benchmarks.sections import Options, Section
from benchmarks.sections.churn import churn
from benchmarks.sections.client_limit import client_limit
from benchmarks.sections.crowds import crowds
from benchmarks.sections.fan_out import fan_out
from benchmarks.sections.first_event import first_event
from benchmarks.sections.flat import flat
from benchmarks.sections.idle import idle
from benchmarks.sections.imports import imports
from benchmarks.sections.redis_appends import redis_appends
from benchmarks.sections.redis_fan_out import redis_fan_out
from benchmarks.sections.redis_scale import redis_scale
from benchmarks.sections.throughput import throughput
from benchmarks.servers import SERVERS, missing, versions

SECTIONS: dict[str, Section] = {
    "client": client_limit,
    "throughput": throughput,
    "first-event": first_event,
    "idle": idle,
    "churn": churn,
    "fan-out": fan_out,
    "crowds": crowds,
    "redis-fan-out": redis_fan_out,
    "redis-scale": redis_scale,
    "redis-appends": redis_appends,
    "flat": flat,
    "imports": imports,
}


def main() -> None:
    arguments = parser().parse_args()
    began = time.monotonic()

    def progress(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", file=sys.stderr)

    peers = []
    for peer in PEERS.values():
        if peer.name not in arguments.peers and peer.name != FLOOR:
            continue
        lacking = missing(peer, arguments.servers[0])
        if lacking is None:
            peers.append(peer)
        else:
            progress(f"without {peer.name}: there is no {lacking}")
    options = Options(
        servers=arguments.servers,
        peers=peers,
        rounds=arguments.rounds,
        duration=arguments.duration,
        requests=arguments.requests,
        cycles=arguments.cycles,
        idle=arguments.idle,
        fan_out=arguments.fan_out,
        hold=arguments.hold,
        progress=progress,
    )
    heading = f"{versions()}; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start"
    rounds = f"median of {options.rounds} interleaved rounds (least to most)"
    print(f"Measured with {heading}; {rounds}.\n")
    for name in arguments.sections:
        for table in SECTIONS[name](options):
            print(table.markdown(), flush=True)
            if arguments.output is not None:
                arguments.output.mkdir(parents=True, exist_ok=True)
                note = f"{table.markdown()}\nMeasured with {versions()}; {rounds}.\n"
                (arguments.output / f"performance-{table.name}.md").write_text(note)
                if table.drawn:
                    plot(table, arguments.output / f"performance-{table.name}.svg")
                data = {"measured": heading, "options": vars(arguments) | {"output": None}, **table.as_data()}
                (arguments.output / f"performance-{table.name}.json").write_text(json.dumps(data, indent=1) + "\n")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    made.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS), metavar="PEER")
    made.add_argument("--servers", nargs="+", choices=list(SERVERS), default=list(SERVERS), metavar="SERVER")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--duration", type=float, default=0.5, help="seconds of one measurement of throughput")
    made.add_argument("--requests", type=int, default=500, help="requests for first-event latency, each round")
    made.add_argument("--cycles", type=int, default=100_000, help="cycles of churn after which growth is looked at")
    made.add_argument("--idle", type=int, default=2000, help="streams for idle cost")
    made.add_argument("--fan-out", type=int, default=10_000, help="streams for fan-out")
    made.add_argument("--hold", type=float, default=16.0, help="seconds that idle streams are held")
    made.add_argument("--output", type=Path, help="a directory for a Markdown and a JSON file of each table")
    made.epilog = f"Sections: {', '.join(SECTIONS)}. Peers: {', '.join(PEERS)}; {OURS} is this package."
    return made


if __name__ == "__main__":
    main()
