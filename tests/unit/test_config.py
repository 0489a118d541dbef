from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import pickle
import sys
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from typing import Any

import pytest

from litestar_safe_sse.config import PerKey, SafeSSEConfig, check_duration, check_integer, check_separator, check_text
from litestar_safe_sse.exceptions import InvalidFieldError

DURATIONS = {
    # name: (None will do, 0 will do)
    "ping_interval": (True, False),
    "send_timeout": (True, False),
    "max_lifetime": (True, False),
    "reauthorize_interval": (False, False),
    "cleanup_timeout": (False, False),
    "shutdown_grace": (False, True),
    "drain_spread": (False, True),
    "slice_timeout": (False, False),
    "retry_after": (False, True),
}
INTEGERS = {
    # name: (None will do, least, most)
    "retry": (True, 0, 2**31 - 1),
    "buffer_size": (False, 1, 2**63 - 1),
    "max_streams": (True, 1, 2**63 - 1),
    "max_last_event_id": (False, 1, 2**63 - 1),
}
NO_DURATION = [
    *(True, "1", b"1", 1j, [1]),
    *(math.nan, math.inf, -math.inf, -1, -0.5),
    *(1_000_000_000.5, sys.float_info.max, 10**400, 10**5000),
]
NO_INTEGER = [True, "1", 1.0, math.nan, -1, 2**63, 10**5000, [1]]


def test_defaults_are_the_documented_ones() -> None:
    """The settings nobody gives are those of the documentation."""
    assert dataclasses.asdict(SafeSSEConfig()) == {
        "ping_interval": 15.0,
        "send_timeout": 30.0,
        "max_lifetime": None,
        "jitter": 0.0,
        "expires_at": None,
        "reauthorize": None,
        "reauthorize_interval": 60.0,
        "cleanup_timeout": 5.0,
        "shutdown_grace": 2.0,
        "drain_spread": 0.0,
        "retry": None,
        "buffer_size": 65536,
        "slice_timeout": 1.0,
        "retry_after": 1.0,
        "max_streams": None,
        "admission": (),
        "on_refusal": "unavailable",
        "max_last_event_id": 1024,
        "last_event_id_query": None,
        "on_error": None,
        "separator": "\r\n",
        "ping_comment": "ping",
        "doctor": None,
    }


def config_of(name: str, value: Any) -> SafeSSEConfig:
    return SafeSSEConfig(**{name: value})


def test_every_setting_is_documented() -> None:
    """The docstring has a line for each setting."""
    documented = inspect.getdoc(SafeSSEConfig)
    assert documented is not None
    for field in dataclasses.fields(SafeSSEConfig):
        assert f"    {field.name}: " in documented


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [0.001, 1, 2.5, 1_000_000_000])
def test_duration_takes_any_number_above_zero(name: str, value: float) -> None:
    """A duration is kept as it was given, int or float."""
    assert getattr(config_of(name, value), name) == value


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", NO_DURATION, ids=lambda value: type(value).__name__)
def test_duration_refuses_what_no_timer_can_be_set_to(name: str, value: Any) -> None:
    """A setting in seconds refuses other types, bool, nan, less than nothing and too much, and names itself."""
    with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be a number of seconds, .*, not ") as raised:
        config_of(name, value)
    assert raised.value.field == name


@pytest.mark.parametrize(("name", "takes"), DURATIONS.items())
@pytest.mark.parametrize("zero", [0, 0.0])
def test_duration_of_zero_is_taken_only_where_it_means_something(
    name: str, takes: tuple[bool, bool], zero: float
) -> None:
    """No time at all is a grace or a hint, but no interval and no deadline."""
    if takes[1]:
        assert getattr(config_of(name, zero), name) == 0
    else:
        with pytest.raises(InvalidFieldError, match=f"invalid {name}: .*, above 0 and up to 1000000000"):
            config_of(name, zero)


@pytest.mark.parametrize(("name", "takes"), (DURATIONS | INTEGERS).items())
def test_none_is_taken_only_where_it_means_no_limit(name: str, takes: tuple[bool, ...]) -> None:
    """`None` switches off what can be switched off, and an error tells where it can."""
    if takes[0]:
        assert getattr(config_of(name, None), name) is None
        with pytest.raises(InvalidFieldError, match=r", or None, not str 'x'$"):
            config_of(name, "x")
    else:
        with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be .*, not NoneType None"):
            config_of(name, None)


@pytest.mark.parametrize(("name", "takes"), INTEGERS.items())
def test_integer_takes_its_least_and_its_most(name: str, takes: tuple[bool, int, int]) -> None:
    """A count may have 64 bits, and a reconnection time as many as the timers of clients."""
    for value in takes[1:]:
        assert getattr(config_of(name, value), name) == value


@pytest.mark.parametrize(("name", "takes"), INTEGERS.items())
def test_integer_refuses_what_is_below_its_least_or_beyond_its_most(name: str, takes: tuple[bool, int, int]) -> None:
    """The error tells both."""
    message = f"invalid {name}: must be an int from {takes[1]} to {takes[2]}.*, not int "
    for value in (takes[1] - 1, takes[2] + 1):
        with pytest.raises(InvalidFieldError, match=message):
            config_of(name, value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", NO_INTEGER, ids=lambda value: type(value).__name__)
def test_integer_refuses_what_is_no_int(name: str, value: Any) -> None:
    """A count refuses other types, bool, and what needs more than 64 bits, and names itself."""
    with pytest.raises(InvalidFieldError, match=f"invalid {name}: must be an int from") as raised:
        config_of(name, value)
    assert raised.value.field == name


@pytest.mark.parametrize("name", ["", 5, b"after", True, "\ud800"])
def test_name_of_a_query_parameter_is_text(name: Any) -> None:
    """The parameter that stands for ``Last-Event-ID`` has a name, or there is none."""
    with pytest.raises(InvalidFieldError, match=r"invalid last_event_id_query: must be (a|text)"):
        SafeSSEConfig(last_event_id_query=name)
    assert SafeSSEConfig(last_event_id_query="après").last_event_id_query == "après"


@pytest.mark.parametrize("separator", ["\r", "\n", "\r\n"])
def test_separator_takes_the_line_ends_of_the_standard(separator: str) -> None:
    """CR, LF and CRLF end a line."""
    assert SafeSSEConfig(separator=separator).separator == separator


@pytest.mark.parametrize("separator", ["", "X", "\n\r", "\n\n", "\u2028", b"\n", None, []])
def test_separator_refuses_all_else(separator: Any) -> None:
    """What doesn't end a line in the standard separates nothing."""
    with pytest.raises(InvalidFieldError, match=r"invalid separator: must be '\\r\\n', '\\n' or '\\r', not "):
        SafeSSEConfig(separator=separator)


@pytest.mark.parametrize("comment", ["", "ping", "é\u2028", "two\nlines"])
def test_ping_comment_takes_any_text(comment: str) -> None:
    """A heartbeat may say anything."""
    assert SafeSSEConfig(ping_comment=comment).ping_comment == comment


@pytest.mark.parametrize(
    ("comment", "remedy"), [(b"ping", "a str, not bytes"), (None, "a str"), ("\ud800", "text .*lone surrogate U.D800")]
)
def test_ping_comment_refuses_what_is_no_text(comment: Any, remedy: str) -> None:
    """A heartbeat that UTF-8 can't encode is refused at start-up, not at the first silence."""
    with pytest.raises(InvalidFieldError, match=f"invalid ping_comment: must be {remedy}"):
        SafeSSEConfig(ping_comment=comment)


def test_unknown_setting_is_refused_with_the_one_that_was_meant() -> None:
    """A misspelt setting is named, and so is the one that is nearest to it."""
    with pytest.raises(InvalidFieldError) as raised:
        config_of("ping_intervall", 1)
    assert raised.value.field == "ping_intervall"
    assert raised.value.reason == "must be a setting of SafeSSEConfig; did you mean ping_interval?"


def test_unknown_setting_that_is_near_to_none_is_refused_with_all() -> None:
    """Then all that exist are named."""
    with pytest.raises(InvalidFieldError) as raised:
        config_of("heartbeat", 1)
    assert all(field.name in raised.value.reason for field in dataclasses.fields(SafeSSEConfig))


def test_unknown_setting_is_refused_when_replacing() -> None:
    """`dataclasses.replace` is held to the same names and the same limits."""
    config = SafeSSEConfig()
    with pytest.raises(InvalidFieldError, match="invalid ping: must be a setting of SafeSSEConfig: ping_interval, "):
        dataclasses.replace(config, **{"ping": 1})  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError, match=r"invalid retry: must be an int from 0 .*, not int -1"):
        dataclasses.replace(config, retry=-1)
    assert dataclasses.replace(config, retry=5) == SafeSSEConfig(retry=5)


def test_settings_are_given_by_name() -> None:
    """Nobody has to know the order of the settings."""
    with pytest.raises(TypeError, match="positional"):
        SafeSSEConfig(15.0)  # type: ignore[call-arg]


def test_signature_shows_the_settings() -> None:
    """`help()` and the documentation show every setting with its default."""
    parameters = inspect.signature(SafeSSEConfig).parameters
    assert list(parameters) == [field.name for field in dataclasses.fields(SafeSSEConfig)]
    assert parameters["ping_interval"].default == 15.0


def test_config_is_frozen() -> None:
    """Settings that were checked stay as they are."""
    config = SafeSSEConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.retry = -1  # type: ignore[misc]


def test_config_survives_pickling() -> None:
    """A configuration can be handed to a worker process."""
    config = SafeSSEConfig(retry=5, separator="\n")
    assert pickle.loads(pickle.dumps(config)) == config


def test_error_shows_the_start_of_a_long_value() -> None:
    """An error never carries more than the start of what was given."""
    with pytest.raises(InvalidFieldError) as raised:
        check_integer("retry", "x" * 1000, minimum=0)
    assert "not str 'xxx" in raised.value.reason
    assert len(raised.value.reason) < 120


class Count(IntEnum):
    ONE = 1


def test_checks_let_through_what_they_are_told_to() -> None:
    """The checks that responses share with the configuration accept exactly what their arguments allow."""
    check_duration("d", None, optional=True)
    check_duration("d", 0, zero=True)
    check_duration("d", 0.5)
    check_integer("i", None, minimum=1, optional=True)
    check_integer("i", Count.ONE, minimum=1)
    check_separator("s", "\r")
    with pytest.raises(InvalidFieldError, match="invalid d: "):
        check_duration("d", 0)


def test_check_text_returns_plain_text() -> None:
    """Text of a subclass is checked and returned as the plain text it holds."""

    class Loud(str):
        def __str__(self) -> str:
            return self.upper()

        def __format__(self, spec: str) -> str:
            return self.upper()

    text = check_text("t", Loud("é"))
    assert (type(text), text) == (str, "é")


@pytest.mark.parametrize("value", ["unavailable", "reconnect", "oldest"])
def test_a_choice_takes_its_values(value: Any) -> None:
    """A setting with few values takes each of them."""
    assert SafeSSEConfig(on_refusal=value).on_refusal == value


@pytest.mark.parametrize("value", ["", "503", None, True, 503, ["reconnect"]])
def test_a_choice_refuses_any_other(value: Any) -> None:
    """A setting with few values refuses any other, and the error names them."""
    with pytest.raises(InvalidFieldError, match="on_refusal: must be 'unavailable', 'reconnect' or 'oldest', not "):
        SafeSSEConfig(on_refusal=value)


@pytest.mark.parametrize("secret", ["", "short", "x" * 15, "with spaces in between", "é" * 20, b"x" * 20, 5, True])
def test_secret_is_long_and_fits_into_a_header(secret: Any) -> None:
    """What would be guessed or could not be sent is refused, and the error does not tell it."""
    with pytest.raises(InvalidFieldError, match=r"invalid doctor: must be a str of 16 or more printable") as raised:
        SafeSSEConfig(doctor=secret)
    assert not secret or str(secret) not in str(raised.value).replace("must be a str of 16 or more", "")


def test_secret_is_not_shown() -> None:
    """A configuration that is logged tells no secret."""
    config = SafeSSEConfig(doctor="sesame-open-thyself")
    assert config.doctor == "sesame-open-thyself"
    assert "sesame" not in repr(config)


# Admission, lifetime and access


def key_of(connection: Any) -> Any:
    return connection


async def confirm(connection: Any) -> bool:
    return True


class Confirms:
    async def __call__(self, connection: Any) -> bool:
        return True


def test_admission_is_one_limit_or_several() -> None:
    """What is given is kept as a tuple, so that a configuration can be made of another."""
    limit = PerKey(key_of, 3)
    config = SafeSSEConfig(admission=limit)
    assert config.admission == (limit,)
    assert SafeSSEConfig(admission=iter([limit, limit])).admission == (limit, limit)  # type: ignore[arg-type]
    assert dataclasses.replace(config, retry=1).admission == (limit,)


@pytest.mark.parametrize("value", [None, 3, key_of, [key_of], [PerKey(key_of), None], "x", PerKey])
def test_admission_refuses_what_is_no_limit(value: Any) -> None:
    """The error names the class that a limit has to be."""
    with pytest.raises(InvalidFieldError, match="invalid admission: must be a PerKey, or a sequence of them, not "):
        SafeSSEConfig(admission=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": None}, "invalid key: must be a function of the connection, not NoneType None"),
        ({"key": "user"}, "invalid key: must be a function, no coroutine function"),
        ({"key": confirm}, "invalid key: must be a function, no coroutine function"),
        ({"key": Confirms()}, "invalid key: must be a function, no coroutine function"),
        ({"key": lambda: 1}, r"invalid key: must be a function that can be called with the connection alone, which "),
        ({"key": lambda one, two: 1}, r"invalid key: must be a function .*<lambda>\(one, two\) can not"),
        ({"n": 0}, "invalid n: must be an int from 1 "),
        ({"n": -1}, "invalid n: must be an int from 1 "),
        ({"n": True}, "invalid n: must be an int from 1 "),
        ({"n": 1.5}, "invalid n: must be an int from 1 "),
        ({"on_refusal": "newest"}, "invalid on_refusal: must be 'unavailable', 'reconnect' or 'oldest', not "),
    ],
)
def test_a_limit_refuses_wrong_values(options: dict[str, Any], message: str) -> None:
    """Each error names the field and what it has to be."""
    with pytest.raises(InvalidFieldError, match=message):
        PerKey(**{"key": key_of, **options})


@pytest.mark.parametrize(
    "key", [id, hash, str, functools.partial(getattr, None), lambda one, two=2: two, lambda *all: 1]
)
def test_a_limit_takes_every_function_that_may_take_a_connection(key: Any) -> None:
    """Those that do not tell what they take among them."""
    assert PerKey(key).key is key


@pytest.mark.parametrize("value", [0, 0.5, 0.999])
def test_jitter_is_a_part(value: float) -> None:
    """Anything from nothing to nearly all of it."""
    assert SafeSSEConfig(jitter=value).jitter == value


@pytest.mark.parametrize("value", [1, -0.1, math.nan, math.inf, True, "0.5", None])
def test_jitter_refuses_what_is_no_part(value: Any) -> None:
    """A lifetime of no time at all is none."""
    with pytest.raises(InvalidFieldError, match="invalid jitter: must be a number from 0 up to, but not including, 1"):
        SafeSSEConfig(jitter=value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1_000_000_000,
        1_900_000_000.5,
        datetime(2001, 1, 1, tzinfo=timezone.utc),
        datetime(2030, 1, 1, tzinfo=timezone.utc),
        datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=2))),
        key_of,
    ],
)
def test_expires_at_is_a_moment_or_a_function(value: Any) -> None:
    """Times are absolute, and may be told by a function of the connection."""
    assert SafeSSEConfig(expires_at=value).expires_at == value


@pytest.mark.parametrize(
    "value", ["2030-01-01", True, math.nan, math.inf, 10**400, datetime(2030, 1, 1), timedelta(1), confirm]
)
def test_expires_at_refuses_what_is_no_moment(value: Any) -> None:
    """A ``datetime`` without a time zone would mean another moment on each machine."""
    with pytest.raises(InvalidFieldError, match="invalid expires_at: must be "):
        SafeSSEConfig(expires_at=value)


@pytest.mark.parametrize("value", [5, 0, -1.5, 3600])
def test_expires_at_refuses_a_number_of_seconds_from_now(value: float) -> None:
    """Which is what somebody means who gives so few, and would refuse every stream."""
    with pytest.raises(InvalidFieldError, match=r"invalid expires_at: must be seconds of the epoch.*give max_lifetime"):
        SafeSSEConfig(expires_at=value)


@pytest.mark.parametrize("value", [None, confirm, Confirms(), functools.partial(confirm)])
def test_reauthorize_is_an_async_function(value: Any) -> None:
    """Anything that is one when it is called."""
    assert SafeSSEConfig(reauthorize=value).reauthorize is value


@pytest.mark.parametrize("value", [key_of, "x", True, lambda _: True])
def test_reauthorize_refuses_any_other(value: Any) -> None:
    """One that is not async could block the event loop of all streams."""
    with pytest.raises(InvalidFieldError, match="invalid reauthorize: must be an async function, or None, not "):
        SafeSSEConfig(reauthorize=value)


@pytest.mark.parametrize("value", [(0, 0), (1000, 1000), (1000, 5000), (0, 2**31 - 1)])
def test_retry_may_be_drawn(value: tuple[int, int]) -> None:
    """The least and the most are kept."""
    assert SafeSSEConfig(retry=value).retry == value


@pytest.mark.parametrize("value", [(), (1,), (1, 2, 3), (2, 1), (-1, 2), (1.0, 2), (True, 2), (1, 2**31), [1, 2]])
def test_retry_refuses_what_cannot_be_drawn(value: Any) -> None:
    """Two counts of milliseconds, in order."""
    with pytest.raises(InvalidFieldError, match="invalid retry: must be "):
        SafeSSEConfig(retry=value)
