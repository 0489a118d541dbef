"""Uvicorn with sockets that hold little, so that it can be told how much stays with Uvicorn itself."""

import socket
import sys

import uvicorn

if __name__ == "__main__":
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        listener.bind(("127.0.0.1", int(sys.argv[1])))
        uvicorn.Server(uvicorn.Config("tests.servers.app:app")).run(sockets=[listener])
