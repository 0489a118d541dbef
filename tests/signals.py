"""Signals of the processes that the tests start."""

from __future__ import annotations

import signal

STOPS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


def default_signals() -> None:
    """Lets a process be stopped whoever started the tests; to be its ``preexec_fn``.

    A shell has what it starts with ``&`` ignore SIGINT, and ``nohup`` SIGHUP. Both are inherited, and Daphne, for one,
    leaves them so.
    """
    for number in STOPS:
        signal.signal(number, signal.SIG_DFL)
