"""The peers: one small file each, all with the same paths.

``/ready``, ``/same``, ``/strings``, ``/queue``, ``/tick``, ``/kib``, ``/typed`` and ``/built`` send ``?events=N``
events and end; so do ``/dict``, ``/foreign``, ``/fields``, ``/unicode`` and ``/carried`` of the floor and of the
package. ``/one`` sends one and waits; ``/beat`` sends heartbeats; ``/plain`` is a short response of the same
application. Peers in Python also have ``/stats``, and those that can be shut down with open streams ``/fan`` and
``/publish``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("CEILING", "FLOOR", "OURS", "PEERS", "Peer")

FLOOR = "raw"
CEILING = "raw-joined"
OURS = "safe"


@dataclass(frozen=True)
class Peer:
    """One alternative.

    Attributes:
        name: What it is called on the command line.
        title: What it is called in tables.
        file: Its file in this package, or a module's name without the ending.
        needs: The modules or the command it needs.
        asgi: Whether it runs on an ASGI server, or is a server itself.
    """

    name: str
    title: str
    file: str
    needs: tuple[str, ...]
    asgi: bool = True


PEERS = {
    peer.name: peer
    for peer in (
        Peer(FLOOR, "raw ASGI, an event a `send`", "raw", ("msgspec",)),
        Peer(CEILING, "raw ASGI, prepared bytes joined to 64 KiB", "raw_joined", ("msgspec",)),
        Peer("litestar", "Litestar's `ServerSentEvent`", "litestar_builtin", ("litestar",)),
        Peer("sse-starlette", "sse-starlette", "sse_starlette_peer", ("sse_starlette",)),
        Peer("fastapi", "FastAPI's `fastapi.sse`", "fastapi_peer", ("fastapi",)),
        Peer("node", "Node.js `http`", "node_http.mjs", ("node",), asgi=False),
        Peer("go", "Go `net/http`, flush per event", "go_http.go", ("go",), asgi=False),
        Peer(OURS, "**`SafeServerSentEvent`**", "safe", ("litestar_safe_sse",)),
    )
}
