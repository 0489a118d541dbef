"""What is measured: one file a section, each a function from options to tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.peers import PEERS, Peer
from benchmarks.servers import Process, running
from benchmarks.tables import Table

__all__ = ("Options", "Section", "all_running")


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        servers: The ASGI servers.
        peers: The peers that can run here.
        rounds: Rounds in which the peers take turns.
        duration: Seconds that one measurement of throughput should last.
        requests: Requests for each round of first-event latency.
        cycles: Cycles of churn after which growth is looked at.
        idle: Streams for idle cost.
        fan_out: Streams for fan-out.
        hold: Seconds that idle streams and those of fan-out are held.
        progress: Called with what is done next.
    """

    servers: list[str]
    peers: list[Peer]
    rounds: int
    duration: float
    requests: int
    cycles: int
    idle: int
    fan_out: int
    hold: float
    progress: Callable[[str], None]

    def asgi(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.asgi]


Section = Callable[[Options], list[Table]]


@contextmanager
def all_running(options: Options, server: str, peers: list[Peer] | None = None) -> Iterator[dict[str, Process]]:
    """All peers at once: those whose turn it is not are idle. Those in other languages run beside the first server."""
    with ExitStack() as stack:
        chosen = options.peers if peers is None else peers
        yield {
            peer.name: stack.enter_context(running(peer, server))
            for peer in chosen
            if peer.asgi or server == options.servers[0]
        }


def title_of(name: str) -> str:
    return PEERS[name].title
