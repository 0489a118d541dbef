"""How the errors of Redis are read, as each release of redis-py delivers them."""

from __future__ import annotations

import pytest
from redis.asyncio.connection import DefaultParser
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError, InvalidResponse

from litestar_safe_sse.exceptions import SourceRefusedError, SourceUnavailableError
from litestar_safe_sse.sources.redis._errors import code_of, needs_new_connection, translate

TEXTS = {
    "ASK": "3999 127.0.0.1:6381",
    "BUSY": "Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN": "Hash slot not served",
    "LOADING": "Redis is loading the dataset in memory",
    "MASTERDOWN": "Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF": "Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MOVED": "3999 127.0.0.1:6381",
    "NOREPLICAS": "Not enough good replicas to write.",
    "OOM": "command not allowed when used memory > 'maxmemory'.",
    "READONLY": "You can't write against a read only replica.",
    "TRYAGAIN": "Multiple keys request during rehashing of slot",
    "UNBLOCKED": "force unblock from blocking operation, instance state changed (master -> replica?)",
}
"""What Redis says that is expected to answer differently later."""

REFUSALS = {
    "CROSSSLOT": "Keys in request don't hash to the same slot",
    "ERR": "wrong number of arguments for 'xadd' command",
    "EXECABORT": "Transaction discarded because of previous errors.",
    "NOGROUP": "No such key 'a' or consumer group 'b' in XREADGROUP with GROUP option",
    "NOPERM": "User guest has no permissions to run the 'eval' command",
    "NOSCRIPT": "No matching script. Please use EVAL.",
    "WRONGTYPE": "Operation against a key holding the wrong kind of value",
}


def delivered(text: str) -> Exception:
    """The exception that redis-py makes of an error of Redis."""
    return DefaultParser(1).parse_error(text)  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("code", TEXTS)
def test_what_passes_is_unavailable(code: str) -> None:
    """Whether redis-py has a class for it, and strips the code, or not."""
    error = delivered(f"{code} {TEXTS[code]}")
    assert isinstance(translate(error), SourceUnavailableError)
    assert code_of(error) == code


@pytest.mark.parametrize("code", sorted(TEXTS.keys() - {"ASK", "MOVED"}))  # no script is answered these
def test_what_passes_is_found_in_the_error_of_a_script(code: str) -> None:
    """Redis 7 appends the script's name, and older ones put a text of their own before it."""
    for text in (
        f"{code} {TEXTS[code]} script: 8a1d5a2cbd0c8ae0d0ee3ea5d71de4bd1bd0c9cd, on @user_script:10.",
        f"ERR Error running script (call to f_8a1d5a2cbd): @user_script:10: @user_script: 10: -{code} {TEXTS[code]}",
    ):
        assert isinstance(translate(delivered(text)), SourceUnavailableError)


@pytest.mark.parametrize("code", sorted(TEXTS.keys() - {"ASK", "MOVED", "UNBLOCKED"}))  # no reason that EXEC gives
def test_what_passes_is_found_in_a_transaction_that_is_discarded(code: str) -> None:
    """What has come in between the commands and ``EXEC`` is said by that, of which redis-py strips its own code."""
    error = delivered(f"EXECABORT Transaction discarded because of: {code} {TEXTS[code]}")
    for each in (error, type(error)(f"EXECABORT {error}")):
        assert isinstance(translate(each), SourceUnavailableError)
        assert code_of(each) == code
        assert needs_new_connection(each) == needs_new_connection(delivered(f"{code} {TEXTS[code]}"))


@pytest.mark.parametrize("why", ["of: NOPERM this user has no permissions", "of previous errors.", "of: ERR no"])
def test_a_transaction_that_would_be_discarded_again_is_a_refusal(why: str) -> None:
    """Nothing is waited for."""
    error = delivered(f"EXECABORT Transaction discarded because {why}")
    assert isinstance(translate(error), SourceRefusedError)
    assert not needs_new_connection(error)


@pytest.mark.parametrize("code", REFUSALS)
def test_what_would_be_refused_again_is_a_refusal(code: str) -> None:
    """Nothing is waited for."""
    error = delivered(f"{code} {REFUSALS[code]}")
    assert isinstance(translate(error), SourceRefusedError)
    assert not needs_new_connection(error)


def test_a_stream_that_is_gone_is_a_refusal() -> None:
    """``UNBLOCKED`` is also what a consumer of a group gets whose key was deleted."""
    error = delivered("UNBLOCKED the stream key no longer exists")
    assert isinstance(translate(error), SourceRefusedError)
    assert code_of(error) == "UNBLOCKED"
    assert not needs_new_connection(error)


def test_a_server_that_is_another_one_now_needs_a_new_connection() -> None:
    """The address may lead to the one that has taken over; nothing is won by it where Redis is full."""
    renewed = {code for code in TEXTS if needs_new_connection(delivered(f"{code} {TEXTS[code]}"))}
    assert renewed == {"ASK", "LOADING", "MASTERDOWN", "MOVED", "READONLY", "UNBLOCKED"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionError("Connection refused"), SourceUnavailableError),
        (BusyLoadingError("Redis is loading"), SourceUnavailableError),
        (InvalidResponse("Protocol Error"), SourceUnavailableError),
        (OSError("No route to host"), SourceUnavailableError),
        (AuthenticationError("invalid username-password pair"), SourceRefusedError),
        (delivered("ERR max number of clients reached"), SourceUnavailableError),
        (delivered("ERR max number of clients + cluster connections reached"), SourceUnavailableError),
    ],
    ids=repr,
)
def test_what_is_wrong_with_a_connection(error: Exception, kind: type[Exception]) -> None:
    """It passes, unless it is a password."""
    assert isinstance(translate(error), kind)
