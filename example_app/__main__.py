"""``python -m example_app [--port 8000]``"""

from __future__ import annotations

import argparse

import uvicorn

from example_app.app import app

parser = argparse.ArgumentParser(prog="python -m example_app", description="Serve the example page with Uvicorn.")
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=8000)
arguments = parser.parse_args()

uvicorn.run(
    app,
    host=arguments.host,
    port=arguments.port,
    access_log=False,
    # For Litestar's own streams, which would hold Uvicorn's exit for ever. The plugin's need no such limit.
    timeout_graceful_shutdown=3,
)
