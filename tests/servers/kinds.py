"""The servers, each with its protocols and event loops, and how they are started."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

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
        return self.server != "daphne"

    @property
    def pushes_back(self) -> bool:
        """Whether ``send()`` blocks when the client stops reading."""
        return self.server in {"uvicorn", "granian"} or (self.server == "hypercorn" and self.protocol == "1.1")

    @property
    def ends_streams_at_shutdown(self) -> bool:
        """Whether the end of a response that ends during a shutdown is sent; Hypercorn loses END_STREAM then."""
        return not (self.server == "hypercorn" and self.protocol == "2")

    def command(self, port: int, *, workers: int, reload: Path | None, extra: Sequence[str]) -> list[str]:
        python, app, host = sys.executable, "tests.servers.app:app", "127.0.0.1"
        command = [python, "-m", self.server, *self.arguments, *extra]
        if self.server == "uvicorn":
            command += ["--host", host, "--port", str(port), "--app-dir", str(ROOT)]
            command += ["--reload", "--reload-dir", str(reload)] if reload else ["--workers", str(workers)]
        elif self.server == "granian":
            command += ["--host", host, "--port", str(port), "--workers", str(workers)]
            command += ["--reload", "--reload-paths", str(reload)] if reload else []
        elif self.server == "hypercorn":
            command += ["--bind", f"{host}:{port}", "--workers", str(workers)]
        elif self.server == "daphne" and self.tls:
            files = certificate_files()
            command += [
                "-e",
                f"ssl:{port}:privateKey={files.key}:certKey={files.certificate}:interface={host}",
            ]
        elif self.server == "daphne":
            command += ["-b", host, "-p", str(port)]
        else:  # Uvicorn in a program
            return [python, str(HERE / f"{self.server}.py"), str(port)]
        return [*command, app]


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

UVICORN_IN_THREAD = ServerKind("uvicorn_in_thread", "1.1", "")

UVICORN_WITH_SMALL_BUFFERS = ServerKind("uvicorn_with_small_buffers", "1.1", "")


def kinds(*names: str) -> list[ServerKind]:
    """Return the kinds of those names, or all, of those that ``SAFE_SSE_KINDS`` (comma-separated prefixes) allows."""
    wanted = os.environ.get("SAFE_SSE_KINDS", "")
    chosen = [KINDS[name] for name in names] if names else list(KINDS.values())
    return [kind for kind in chosen if kind.name.startswith(tuple(wanted.split(",")))]


@dataclass(frozen=True)
class Certificate:
    key: Path
    certificate: Path
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
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.set_alpn_protocols(["h2"])
    return Certificate(directory / "key.pem", directory / "certificate.pem", client)
