"""The helper that gives the servers of the tests their signals back."""

from __future__ import annotations

import signal
import subprocess
import sys

from tests.bounds import START
from tests.signals import STOPS, default_signals

ASKING = """
from signal import SIG_DFL, SIGHUP, SIGINT, SIGTERM, default_int_handler, getsignal
assert (getsignal(SIGHUP), getsignal(SIGINT), getsignal(SIGTERM)) == (SIG_DFL, default_int_handler, SIG_DFL)
"""


def test_a_process_can_be_interrupted_though_the_tests_run_in_the_background() -> None:
    """What a shell or ``nohup`` has had the tests ignore is not ignored by the servers that they start."""
    before = [signal.signal(number, signal.SIG_IGN) for number in STOPS]
    try:
        subprocess.run([sys.executable, "-c", ASKING], preexec_fn=default_signals, check=True, timeout=START)
    finally:
        for number, handler in zip(STOPS, before, strict=True):
            signal.signal(number, handler)
