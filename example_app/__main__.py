"""``python -m example_app [--port 8000] [--server uvicorn] [--workers 1]``"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from example_app.workers import keep_workers

APP = "example_app.app:app"

parser = argparse.ArgumentParser(
    prog="python -m example_app",
    description="Serve the example pages.",
    epilog="EXAMPLE_REDIS_URL names the Redis of the feed's log, which several workers need. EXAMPLE_HOSTS gives the "
    "names under which the pages may be opened, besides addresses and localhost.",
)
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
parser.add_argument("--server", choices=["uvicorn", "granian", "hypercorn", "daphne"], default="uvicorn")
parser.add_argument("--workers", type=int, default=1)


def command(server: str, host: str, port: int, workers: int) -> list[str]:
    """The command line of a server that starts its workers itself, and replaces one that has died."""
    address = ["--host", host, "--port", str(port)]
    if server == "uvicorn":
        # The limit is for Litestar's own streams, which would hold the exit for ever. The plugin's need none.
        return [*address, "--workers", str(workers), "--no-access-log", "--timeout-graceful-shutdown", "3", APP]
    if server == "granian":
        respawn = ["--respawn-failed-workers"] if workers > 1 else []
        return [
            "--interface",
            "asgi",
            *address,
            "--workers",
            str(workers),
            "--workers-kill-timeout",
            "5",
            *respawn,
            APP,
        ]
    if server == "hypercorn":
        return ["--bind", f"{host}:{port}", "--workers", "0", "--graceful-timeout", "3", APP]
    return ["--bind", host, "--port", str(port), "--verbosity", "0", APP]


def command_of_one(server: str, socket: int) -> list[str]:
    """The command line of one worker, on a socket that it inherits, of a server that doesn't replace them.

    Hypercorn stops altogether when a worker of its own has died, and Daphne has none.
    """
    if server == "hypercorn":
        return ["--bind", f"fd://{socket}", "--workers", "0", "--graceful-timeout", "3", APP]
    return ["--fd", str(socket), "--verbosity", "0", APP]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser.parse_args(arguments)
    if find_spec(options.server) is None:
        parser.error(f"{options.server} is not installed: pip install {options.server}")
    if options.workers < 1:
        parser.error("--workers must be 1 or more")
    if options.workers > 1 and not os.environ.get("EXAMPLE_REDIS_URL"):
        parser.error(
            "several workers share a log: EXAMPLE_REDIS_URL must be set, to redis://localhost:6379/0 for example"
        )
    os.environ["EXAMPLE_HOSTS"] = f"{os.environ.get('EXAMPLE_HOSTS', '')} {options.host}"  # workers read it
    module = "example_app.on_daphne" if options.server == "daphne" else options.server
    if options.workers > 1 and options.server in ("hypercorn", "daphne"):

        def one(socket: int) -> list[str]:
            return [sys.executable, "-m", module, *command_of_one(options.server, socket)]

        keep_workers(one, options.host, options.port, options.workers)
    else:
        sys.argv = [options.server, *command(options.server, options.host, options.port, options.workers)]
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
