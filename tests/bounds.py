"""How long the tests wait. Each is a bound and never a pause, and a machine ten times slower keeps it.

A test asserts what happens, in which order and how often. How soon it happens is measured by ``benchmarks``, and by the
reports of ``tests/servers``.
"""

from __future__ import annotations

WAIT = 60.0
"""Seconds after which a wait for what must happen has failed."""

START = 120.0
"""Seconds in which a process has to start and to answer."""

NEVER = 3600.0
"""Seconds of a timeout or an interval that is not to come while a test waits for something else to happen."""

SHORT = 0.3
"""Seconds of a timeout that a test waits for, while what is to be done before it takes some milliseconds at most."""
