"""The plugin of pytest: the fixture ``sse``, and a check for what tests leave open.

It stands beside the package, which is imported only by a test that uses it: pytest loads this in every run.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

    from litestar_safe_sse._pytest import StreamOpener

BEFORE: pytest.StashKey[Any] = pytest.StashKey()
"""What was open before a test."""


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "fail tests that leave streams, their tasks or subscriptions of litestar_safe_sse open"
    parser.getgroup("litestar-safe-sse").addoption("--sse-leaks", action="store_true", help=about)
    parser.addini("sse_leaks", about, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "sse_leaks(check=True): whether the test fails that leaves streams, tasks or subscriptions open"
    )


def is_checked(item: pytest.Item) -> bool:
    """Returns whether a test is to leave nothing open."""
    marker = item.get_closest_marker("sse_leaks")
    if marker is not None:
        return bool(marker.args[0] if marker.args else marker.kwargs.get("check", True))
    return bool(item.config.getoption("--sse-leaks") or item.config.getini("sse_leaks"))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    if is_checked(item) and "litestar_safe_sse" in sys.modules:
        from litestar_safe_sse._pytest import open_things

        item.stash[BEFORE] = open_things()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    yield  # what the test's fixtures close is closed now
    if is_checked(item) and "litestar_safe_sse" in sys.modules:
        from litestar_safe_sse._pytest import describe, open_things

        before = item.stash.get(BEFORE, ())
        left = [describe(thing) for thing in open_things() if thing not in before]
        if left:
            pytest.fail("the test has left open: " + "; ".join(sorted(left)), pytrace=False)


@pytest.fixture
def sse() -> Generator[StreamOpener, None, None]:
    """Opens streams, with one jar of cookies for the whole test, and sees that each has ended."""
    from litestar_safe_sse._pytest import StreamOpener

    opener = StreamOpener()
    yield opener
    opener.check()
