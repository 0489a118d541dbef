"""``litestar sse``: what is asked of a deployment from a terminal.

``SafeSSEPlugin`` adds it to Litestar's commands; ``python -m litestar_safe_sse.cli`` has it without an application.
"""

from __future__ import annotations

import logging
import math
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
import click
import msgspec

from litestar_safe_sse._doctor.contract import PROBES
from litestar_safe_sse.exceptions import MissingExtraError, SSEError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar_safe_sse._doctor.findings import Report
    from litestar_safe_sse._doctor.probes._probe import Patient

__all__ = ("sse_group",)

_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*:[ \t]*([\t -~]*)")
"""https://www.rfc-editor.org/rfc/rfc9110#section-5.5, of which what is not ASCII has no encoding that all agree on."""

HEALTHY, SICK, CANNOT_TELL = 0, 1, 2
"""Exit codes."""


@click.group(name="sse")
def sse_group() -> None:
    """Asks a deployment about its event streams."""


def parse_headers(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, str]:
    """Returns headers by their names.

    Raises:
        click.BadParameter: One of them cannot be sent.
    """
    headers = {}
    for line in given:
        found = _HEADER.fullmatch(line.strip())
        if found is None:
            raise click.BadParameter(f"must be 'Name: value', a name without spaces and all of it ASCII, not {line!r}")
        headers[found[1]] = found[2]
    return headers


def parse_secret(_: click.Context, __: click.Parameter, given: str) -> str:
    """Returns a secret.

    Raises:
        click.BadParameter: It cannot be sent; which one it is isn't told.
    """
    if not re.fullmatch("[!-~]+", given):
        raise click.BadParameter("must be printable ASCII without spaces, as SafeSSEConfig(doctor=...) is")
    return given


def parse_names(_: click.Context, __: click.Parameter, given: str | None) -> list[str]:
    """Returns names of probes.

    Raises:
        click.BadParameter: There is no such probe.
    """
    if given is None:
        return []
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in PROBES:
            raise click.BadParameter(f"must be among {', '.join(PROBES)}, not {name!r}")
    return names


class Seconds(click.FloatRange):
    """A number of seconds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Returns the number; nan, which is neither less nor more than another, is none."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"must be a number of seconds, not {value!r}", param, ctx)
        return seconds


@sse_group.command()
@click.argument("url")
@click.option("--direct", metavar="URL", help="The application past its proxy, to compare with.")
@click.option(
    "--secret",
    envvar="LITESTAR_SSE_SECRET",
    show_envvar=True,
    required=True,
    callback=parse_secret,
    help="That of SafeSSEConfig(doctor=...). Better given by the variable LITESTAR_SSE_SECRET, which ps does not show.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=parse_headers,
    metavar="'NAME: VALUE'",
    help="To send with each request; may be repeated.",
)
@click.option("--cacert", metavar="FILE", help="Certificates to trust in place of the system's.")
@click.option(
    "--idle",
    type=Seconds(1, 3000),
    default=65,
    show_default=True,
    help="Seconds of silence that a stream has to survive.",
)
@click.option(
    "--patience",
    type=Seconds(1, 600),
    default=20,
    show_default=True,
    help="Seconds after which an abort, say, counts as unnoticed.",
)
@click.option(
    "--restart", type=Seconds(1, 3000), help="Seconds to wait for you to restart the application, last of all."
)
@click.option("--only", callback=parse_names, metavar="PROBE,...", help="The probes to run, in place of all.")
@click.option("--skip", callback=parse_names, metavar="PROBE,...", help="Probes to leave out.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(url: str, direct: str | None, only: list[str], skip: list[str], as_json: bool, **options: Any) -> None:
    """Tells what becomes of event streams on their way to a client.

    URL is the root of an application with SafeSSEConfig(doctor=...), as its clients reach it. Exits with 0 if it is
    healthy, 1 if it is sick, and 2 if that could not be told.
    """
    chosen = choose(only, skip, options["restart"])
    need_library()
    quieten()
    try:
        report = anyio.run(run_doctor, url, direct, chosen, options)
    except BaseException as error:
        fail(error)
    if as_json:
        click.echo(to_json(report))
    else:
        show(report)
    sys.exit(exit_code(report))


@sse_group.command()
@click.argument("url")
@click.option(
    "--header",
    "headers",
    multiple=True,
    callback=parse_headers,
    metavar="'NAME: VALUE'",
    help="What the guards of the view want; may be repeated.",
)
@click.option("--cacert", metavar="FILE", help="Certificates to trust in place of the system's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def streams(url: str, headers: dict[str, str], cacert: str | None, as_json: bool) -> None:
    """Lists the live streams of an application, and the last that ended.

    URL is that of its StreamsView: of the application's root, if the view is at /_sse/streams. Of several processes
    those are listed that were met. Exits with 2 if the view does not answer.
    """
    need_library()
    quieten()
    from litestar_safe_sse._view.asking import ask_streams
    from litestar_safe_sse._view.rendering import render

    try:
        snapshots = anyio.run(ask_streams, url, headers, cacert)
    except BaseException as error:
        fail(error)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(snapshots), indent=2).decode())
    else:
        from rich.console import Console

        render(snapshots, Console())


def choose(only: list[str], skip: list[str], restart: float | None) -> list[str]:
    """Returns the probes to run.

    Raises:
        click.BadParameter: There are none.
    """
    restarts = restart is not None or "restart" in only
    chosen = [name for name in only or PROBES if name not in skip and (name != "restart" or restarts)]
    if not chosen:
        raise click.BadParameter("must leave a probe to run, and skips all of them", param_hint="'--skip'")
    return chosen


async def run_doctor(url: str, direct: str | None, chosen: list[str], options: Mapping[str, Any]) -> Report:
    """Examines a deployment."""
    from litestar_safe_sse._doctor.examination import examine

    patient = await make_patient(url, options)
    return await examine(patient, None if direct is None else await make_patient(direct, options), chosen)


async def make_patient(url: str, options: Mapping[str, Any]) -> Patient:
    """Asks a deployment whether it can be examined.

    Raises:
        CannotTellError: It can't.
    """
    from litestar_safe_sse._doctor.deployment import Deployment
    from litestar_safe_sse._doctor.probes._probe import Patient

    deployment = Deployment(url, options["secret"], headers=options["headers"], authorities=options["cacert"])
    return Patient(
        deployment=deployment,
        seen=await deployment.greet(),
        idle=options["idle"],
        patience=options["patience"],
        restart=options["restart"] or 60.0,
    )


def need_library() -> None:
    """Fails where the library that asks is not installed."""
    try:
        import httpx  # noqa: F401
    except ImportError as error:
        fail(MissingExtraError("httpx is needed: pip install 'litestar-safe-sse[cli]'"), error)


def quieten() -> None:
    """Has each request not told of, whatever the application that was loaded has set up."""
    logging.getLogger("httpx").setLevel(logging.WARNING)


def fail(error: BaseException, cause: BaseException | None = None) -> NoReturn:
    """Says in a line why nothing can be told, and exits; what is no error of ours is raised on."""
    if not isinstance(error, SSEError):
        raise error
    click.echo(str(error), err=True)
    sys.exit(CANNOT_TELL)


def to_json(report: Report) -> str:
    """Returns a report for programs, with its verdict."""
    found = {"verdict": report.verdict, **msgspec.structs.asdict(report)}
    return msgspec.json.format(msgspec.json.encode(found), indent=2).decode()


def show(report: Report) -> None:
    """Prints a report for people."""
    from rich.console import Console

    from litestar_safe_sse._doctor.rendering import render

    render(report, Console())


def exit_code(report: Report) -> int:
    """Returns what a script can go by."""
    from litestar_safe_sse._doctor.findings import Verdict

    return {Verdict.SICK: SICK, Verdict.UNKNOWN: CANNOT_TELL}.get(report.verdict, HEALTHY)


if __name__ == "__main__":
    sse_group(prog_name="python -m litestar_safe_sse.cli")
