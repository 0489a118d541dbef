"""The servers, each with its protocols and event loops, and how they are started."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

Address = tuple[str, int] | str
"""Where a server listens: a host and a port, or the path of a Unix socket."""

LISTENING = {
    "uvicorn": (("--host", "{host}", "--port", "{port}"), ("--uds", "{path}")),
    "granian": (("--host", "{host}", "--port", "{port}"), ("--uds", "{path}")),
    "hypercorn": (("--bind", "{host}:{port}"), ("--bind", "unix:{path}")),
    "daphne": (("-b", "{host}", "-p", "{port}"), ("-u", "{path}")),
}
"""The options by which a server listens at a host and a port, and at a Unix socket."""

RELOADING = {"uvicorn": ["--reload", "--reload-dir"], "granian": ["--reload", "--reload-paths"]}

TRIO_GRACE = 1
"""Seconds that Hypercorn's trio worker waits at a shutdown for connections that are idle."""


@dataclass(frozen=True)
class ServerKind:
    """A server, how it is started, and what is known of it."""

    server: str
    protocol: str
    variant: str
    arguments: tuple[str, ...] = ()
    tls: bool = False

    @property
    def name(self) -> str:
        return f"{self.server}-h{self.protocol[0]}-{self.variant}".removesuffix("-")

    @property
    def trio(self) -> bool:
        return self.variant == "trio"

    @property
    def has_lifespan(self) -> bool:
        return self.server != "daphne" and not {"asginl", "off"} & {*self.arguments}

    @property
    def pushes_back(self) -> bool:
        """Whether ``send()`` blocks when the client stops reading."""
        return self.server in {"uvicorn", "granian"} or (self.server == "hypercorn" and self.protocol == "1.1")

    @property
    def ends_streams_at_shutdown(self) -> bool:
        """Whether the end of a response that ends during a shutdown is sent; Hypercorn loses END_STREAM then."""
        return not (self.server == "hypercorn" and self.protocol == "2")

    def command(
        self,
        address: Address,
        *,
        workers: int = 1,
        reload: Path | None = None,
        extra: Sequence[str] = (),
        app: str = "tests.servers.app:app",
    ) -> list[str]:
        if self.server not in LISTENING:  # Uvicorn in a program
            return [sys.executable, str(HERE / f"{self.server}.py"), str(address[1])]
        command = [sys.executable, "-m", self.server, *self.arguments, *extra, *self._listening(address)]
        if self.server == "uvicorn":
            command += ["--app-dir", str(ROOT)]
        if reload is not None:
            command += RELOADING[self.server] + [str(reload)]
        if self.server != "daphne" and not (self.server == "uvicorn" and reload is not None):
            command += ["--workers", str(workers)]
        return [*command, app]

    def _listening(self, address: Address) -> list[str]:
        tcp, unix = LISTENING[self.server]
        if isinstance(address, str):
            return [part.format(path=address) for part in unix]
        host, port = address
        if self.tls:
            files = certificate_files()
            return ["-e", f"ssl:{port}:privateKey={files.key}:certKey={files.certificate}:interface={host}"]
        return [part.format(host=host, port=port) for part in tcp]


def _kinds() -> Iterator[ServerKind]:
    # Each parser, protocol and loop once, not each with each: the matrix has to be walked through in minutes.
    for http, loop in (("h11", "asyncio"), ("httptools", "uvloop")):
        yield ServerKind("uvicorn", "1.1", f"{http}-{loop}", ("--http", http, "--loop", loop))
    for protocol, loop in (("1.1", "asyncio"), ("2", "uvloop")):
        yield ServerKind("granian", protocol, loop, ("--interface", "asgi", "--http", protocol[0], "--loop", loop))
    for protocol in ("1.1", "2"):
        for worker in ("asyncio", "uvloop", "trio"):
            # Over HTTP/2 it holds a connection that the client has closed until it would have been idle too long.
            arguments = ("--worker-class", worker, "--keep-alive", "1")
            # Its trio worker leaves idle connections open at a shutdown until this is over.
            graceful = ("--graceful-timeout", str(TRIO_GRACE)) if worker == "trio" else ()
            yield ServerKind("hypercorn", protocol, worker, (*arguments, *graceful))
    yield ServerKind("daphne", "1.1", "")
    yield ServerKind("daphne", "2", "", tls=True)


KINDS: dict[str, ServerKind] = {kind.name: kind for kind in _kinds()}

VARIANTS = {
    "uvicorn-h1-h11-asyncio",
    "granian-h2-uvloop",
    "hypercorn-h1-uvloop",
    "hypercorn-h2-asyncio",
    "hypercorn-h2-trio",
    "daphne-h2",
}
"""Kinds that differ from others in what they share with a third."""

UVICORN_IN_THREAD = ServerKind("uvicorn_in_thread", "1.1", "")

UVICORN_WITH_SMALL_BUFFERS = ServerKind("uvicorn_with_small_buffers", "1.1", "")


def kinds(*names: str) -> list[ServerKind]:
    """Return the kinds of those names, or all, of those that ``SAFE_SSE_KINDS`` (comma-separated prefixes) allows."""
    wanted = os.environ.get("SAFE_SSE_KINDS", "")
    chosen = [KINDS[name] for name in names] if names else list(KINDS.values())
    return [kind for kind in chosen if kind.name.startswith(tuple(wanted.split(",")))]


def parameters(*names: str, long: Collection[str] = ()) -> list[Any]:
    """Return the kinds of those names, or all, as :func:`marked` does."""
    return marked(kinds(*names), long)


def marked(some: Iterable[ServerKind], long: Collection[str] = ()) -> list[Any]:
    """Return kinds for ``parametrize``; variants, and those that are named, make a test a long one."""
    return [pytest.param(kind, id=kind.name, marks=long_if(kind.name in {*VARIANTS, *long})) for kind in some]


def long_if(differs_little: bool) -> list[pytest.MarkDecorator]:
    """Return the mark of a part of a matrix that differs little from another."""
    return [pytest.mark.long] if differs_little else []


@dataclass(frozen=True)
class Certificate:
    key: Path
    certificate: Path
    authority: Path
    client: ssl.SSLContext


@functools.cache
def certificate_files() -> Certificate:
    """A self-signed authority and a certificate for the loopback address, made once a run."""
    directory = Path(tempfile.mkdtemp(prefix="safe-sse-tls-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(directory / "key.pem")
    for number, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(directory / "certificate.pem", append=number > 0)
    authority.cert_pem.write_to_path(directory / "authority.pem")
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2"])
    return Certificate(directory / "key.pem", directory / "certificate.pem", directory / "authority.pem", client)
