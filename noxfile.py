"""What can be done with this project. ``nox --list`` tells what there is, ``nox -s fast`` does one of it.

What stands behind ``--`` goes to the tool that a session runs: ``nox -s fast -- -k grace``. Environments are kept in
``.nox`` and used again; ``nox -R`` looks for nothing new in them. ``.ci/run`` does all that has to pass.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nox
from nox.project import dependency_groups, load_toml, python_versions

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.sessions = ["fast", "check"]

# Pythons that pyenv has installed but does not have switched on are found by the folders that they are in.
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(PYENV.glob("versions/3.*/bin")))])

PROJECT = load_toml("pyproject.toml")
PYTHONS = python_versions(PROJECT)
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
"""The Python on which ``test`` runs all tests, unless nox is installed for another one."""
COVERED = "3.13" if shutil.which("python3.13") else None
"""On Python 3.12 and newer, coverage costs little."""
SWALLOWING = "3.11" if shutil.which("python3.11") else None
"""Up to Python 3.11 ``asyncio.wait_for`` loses cancellations, of which there is a promise to be broken."""

REDIS_PY = ("5.0.1", "6.4.*", "7.4.*", "8.*")
"""They have classes for other codes each, and strip these codes."""

PYTEST = ("python", "-m", "pytest", "--numprocesses", "auto", "--dist", "loadgroup")
WAITING = ("--numprocesses", "8")
"""For tests of which most wait, for servers or for time to pass (``scripts/test``)."""
BESIDE = ("--numprocesses", "3")
"""The same, for a session that CI runs beside another."""
OTHER_REDIS = (
    *(("redis-6.2",) if sys.version_info < (3, 12) else ()),
    "redis-8",
    *(("valkey",) if sys.version_info >= (3, 11) else ()),
)
"""Servers that the dependency group ``redis-servers`` has for this Python (``tests/redis_server.py``)."""
ON_OTHER_REDIS = [
    f"tests/sources/test_{name}.py"
    for name in (
        *("bursts", "group_queue", "poison", "published_entries", "pubsub", "queues"),
        *("redis_link", "redis_log", "redis_refuses", "replays"),
    )
]
"""What depends on the server, beside the contracts, which the long tests of the logs run on each."""
IN_PROCESS = ("tests/unit", "tests/core", "tests/litestar")
"""Tests that need neither Redis nor a browser, and no server's process."""
NOT_ALONE = "--deselect=tests/core/test_alone.py"
"""What runs without Litestar on one Python does so on all."""
NOT_STALLED = "--deselect=tests/core/test_stalls.py"
"""These block the loop, and take their time."""
NO_UVLOOP = "-k=not uvloop"
"""What runs on asyncio's own loop and on trio seldom fails on uvloop alone; ``test`` sees it."""
NO_PYTESTS = "--deselect=tests/litestar/test_pytest_plugin.py"
"""These start a run of pytest each."""
TESTING = [f"tests/litestar/test_{name}.py" for name in ("open_stream", "open_websocket", "pytest_plugin")]
"""What users test with runs on the Python that they have, under the plugins of pytest that they have."""
CONNECTING = "tests/sources/test_leaving_while_connecting.py"
"""What redis-py makes of a cancellation differs from one Python to the next."""


def install(session: nox.Session, *groups: str, constraints: Path | None = None) -> None:
    """Installs the project, so that changes to it take effect at once, and what the groups name."""
    constraint = ("--constraint", str(constraints)) if constraints else ()
    session.install("--quiet", "--editable", ".", *dependency_groups(PROJECT, *groups), *constraint)


@nox.session
def fast(session: nox.Session) -> None:
    """The tests that take less than a minute and need nothing but Python."""
    install(session, "test-core")
    session.run(*PYTEST, *WAITING, *(session.posargs or (*IN_PROCESS, NOT_ALONE, NOT_STALLED, NO_UVLOOP, NO_PYTESTS)))


@nox.session
def plugins(session: nox.Session) -> None:
    """The tests, and the types, of what is shown with other plugins of Litestar's."""
    install(session, "plugins")
    session.run("mypy", *map(str, [*Path("tests/plugins").glob("*.py"), *Path("docs/examples/database").glob("*.py")]))
    session.run(*PYTEST, *(session.posargs or ["tests/plugins"]))


@nox.session(python=False)
def test(session: nox.Session) -> None:
    """All tests but the long ones, by the README's command; needs Redis, PostgreSQL, Node.js and Chromium."""
    session.run("./scripts/test", *session.posargs, external=True)


@nox.session(python=False)
def long(session: nox.Session) -> None:
    """The storms, the soaks, the variants of servers, and twenty clients for each way of leaving; needs as ``test``.

    Then the sources on other servers than the system's Redis.
    """
    session.run("./scripts/test", "-m", "long", *session.posargs, external=True)
    if not session.posargs:
        visits = {"SAFE_SSE_REPEATS": "20"}
        session.run("./scripts/test", "tests/servers/test_abort_matrix.py", env=visits, external=True)
        for kind in OTHER_REDIS:
            without = ("-k", "not permissions_that_are_named") if kind == "redis-6.2" else ()  # rules of Redis 7
            session.run("./scripts/test", *ON_OTHER_REDIS, *without, env={"SAFE_SSE_REDIS": kind}, external=True)


@nox.session
def check(session: nox.Session) -> None:
    """Style and types: what ruff, mypy and pyright say."""
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    session.run("pyright", "--pythonpath", str(Path(session.bin, "python")))


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, as HTML in ``docs/_build``; a warning is an error."""
    install(session, "docs")
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--nitpicky", "-q", "-E", "docs", "docs/_build")


@nox.session
def bench(session: nox.Session) -> None:
    """The figures of ``docs/performance.md``; ``-- --help`` tells which parts there are."""
    install(session, "bench")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session
def instructions(session: nox.Session) -> None:
    """Instructions an event and a request, against a baseline that ``-- --write`` takes anew."""
    counted_with = json.loads(Path("benchmarks/instructions/baseline.json").read_text())["versions"]
    pinned = [f"{name}=={version}" for name, version in counted_with.items() if name not in ("python", "machine")]
    constraints = Path(session.create_tmp(), "counted-with.txt")
    constraints.write_text("" if "--write" in session.posargs else "\n".join(pinned))
    install(session, constraints=constraints)
    session.run("python", "-m", "benchmarks.instructions", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """The wheel, built from the source archive and imported without the sources at hand."""
    session.install("--quiet", "build")
    with TemporaryDirectory() as directory:
        session.run("python", "-m", "build", "--outdir", directory, silent=True)
        session.install("--quiet", "--force-reinstall", *map(str, Path(directory).glob("*.whl")))
        with session.chdir(directory):
            session.run("python", "-c", IMPORT_ALL)


IMPORT_ALL = """
import pathlib, litestar_safe_sse as package
home = pathlib.Path(package.__file__).parent
assert "site-packages" in home.parts, home
assert (home / "py.typed").exists()
for name in package.__all__:
    getattr(package, name)
print("litestar-safe-sse", package.__version__, "imports")
"""


@nox.session(python=[each for each in PYTHONS[1:] if each != THIS])
def pythons(session: nox.Session) -> None:
    """The tests of the core, and of ``testing``, on a Python that neither ``oldest`` nor ``test`` uses; needs Redis."""
    install(session, "test-core")
    tests = (*IN_PROCESS[:2], *TESTING, CONNECTING, NOT_ALONE)
    session.run(*PYTEST, *BESIDE, "--quiet", *(session.posargs or tests))


@nox.session
def redispy(session: nox.Session) -> None:
    """The errors of Redis, as each release of redis-py that is much used delivers them."""
    install(session, "test-core")
    for release in REDIS_PY:
        session.install("--quiet", f"redis=={release}")
        session.run("python", "-m", "pytest", "--quiet", *(session.posargs or ["tests/sources/test_redis_errors.py"]))


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """The tests on the oldest Python with the oldest releases that are supported."""
    constraints = Path(session.create_tmp(), "oldest.txt")
    constraints.write_text("\n".join(oldest_releases()))
    install(session, "test-core", constraints=constraints)
    session.run("python", "-m", "pip", "freeze")
    tests = (*IN_PROCESS, CONNECTING, "tests/sources/test_event_logs.py")
    session.run(*PYTEST, *BESIDE, "--quiet", *(session.posargs or tests))


def oldest_releases() -> list[str]:
    """The releases that the metadata name, as constraints."""
    project = PROJECT["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["redis"]]
    return [re.sub(r"^([\w.-]+)>=([\w.]+).*", r"\1==\2", requirement) for requirement in required]


@nox.session(python=SWALLOWING)
def promises(session: nox.Session) -> None:
    """Breaks each promise of the documentation in a copy of the package, upon which one of its tests has to fail."""
    install(session, "test")
    session.run("python", "-m", "tests.docs.break_promises", *session.posargs)


@nox.session(python=COVERED)
def coverage(session: nox.Session) -> None:
    """How much of the package the tests run, in servers' processes too; needs what ``test`` does."""
    install(session, "test")
    report = ("--cov", "--cov-report=term", "--cov-fail-under=95")
    session.run(*PYTEST, *WAITING, "--quiet", *COVERED_BY, *report, env=ONE_OF_EACH)


ONE_OF_EACH = {"SAFE_SSE_KINDS": "uvicorn-h1-httptools,granian-h1,hypercorn-h1-asyncio,daphne-h1"}
COVERED_BY = (
    *IN_PROCESS,
    "tests/doctor",
    "tests/integration",
    "tests/servers",
    "tests/sources",
    "tests/view",
    "--deselect=tests/sources/test_resume.py",
    "--deselect=tests/sources/test_queue_delivery.py",
    "--deselect=tests/sources/test_redis_leaks.py",
    "-k=(not servers or stays_but or stopped_reading) and not thousand and not at_any_await",
)
