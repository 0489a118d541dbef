from __future__ import annotations

import pickle

import pytest

from litestar_safe_sse import exceptions
from litestar_safe_sse.exceptions import (
    CleanupError,
    InvalidFieldError,
    MissingPluginError,
    OutsideRequestError,
    SSEError,
    StreamClosedError,
)

ERRORS = [
    InvalidFieldError("id", "must be without NUL"),
    StreamClosedError("the stream has ended"),
    CleanupError([("redis", TimeoutError()), ("cursor", ValueError("gone"))]),
    MissingPluginError("register SafeSSEPlugin"),
    OutsideRequestError("there is no request"),
]
by_name = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


ERROR_NAMES = [name for name in exceptions.__all__ if not issubclass(getattr(exceptions, name), Warning)]


@pytest.mark.parametrize("name", ERROR_NAMES)
def test_every_public_error_is_an_sse_error(name: str) -> None:
    """One `except SSEError` catches whatever the package raises."""
    assert issubclass(getattr(exceptions, name), SSEError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (InvalidFieldError, ValueError),
        (StreamClosedError, RuntimeError),
        (MissingPluginError, RuntimeError),
        (OutsideRequestError, RuntimeError),
    ],
)
def test_error_is_also_the_builtin_of_its_kind(error: type[SSEError], builtin: type[Exception]) -> None:
    """Code that knows nothing of this package can catch its errors by their built-in kind."""
    assert issubclass(error, builtin)


@by_name
def test_error_survives_pickling(error: SSEError) -> None:
    """An error that crosses a process boundary keeps its type, its message and its attributes."""
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__.keys() == error.__dict__.keys()


def test_invalid_field_names_the_field_the_fault_and_the_remedy() -> None:
    """The message of an invalid field can be acted on without the source."""
    error = InvalidFieldError("id", "must be without NUL")
    assert (error.field, error.reason) == ("id", "must be without NUL")
    assert str(error) == "invalid id: must be without NUL"


def test_cleanup_error_reports_all_failures_by_name() -> None:
    """Every failed cleanup is listed, in order, with its name and its exception."""
    timeout, gone = TimeoutError(), ValueError("gone")
    error = CleanupError([("redis", timeout), ("cursor", gone)])
    assert error.exceptions == (timeout, gone)
    assert error.failures == (("redis", timeout), ("cursor", gone))
    assert str(error) == "2 cleanups failed: redis: TimeoutError(); cursor: ValueError('gone')"


def test_cleanup_error_counts_one_failure_in_the_singular() -> None:
    """A single failed cleanup reads as one."""
    assert str(CleanupError([("redis", TimeoutError())])) == "1 cleanup failed: redis: TimeoutError()"
