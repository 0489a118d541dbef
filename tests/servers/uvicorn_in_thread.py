"""Uvicorn in a thread that is not the main one, where no signal arrives: SIGTERM sets ``should_exit``."""

import signal
import sys
import threading

import uvicorn

if __name__ == "__main__":
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    server = uvicorn.Server(uvicorn.Config("tests.servers.app:app", host="127.0.0.1", port=int(sys.argv[1])))
    thread = threading.Thread(target=server.run)
    thread.start()
    signal.sigwait(stops)
    server.should_exit = True
    thread.join()
