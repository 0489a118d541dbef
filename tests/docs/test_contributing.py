"""What contributors are told exists, and CI does all of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


def sessions() -> set[str]:
    """The names of the sessions in ``noxfile.py``."""
    marked = r"^@nox\.session(?:\(.*\))?\ndef (\w+)"
    return set(re.findall(marked, (ROOT / "noxfile.py").read_text(), re.MULTILINE))


def test_every_session_is_explained() -> None:
    """The table has what ``nox --list`` has."""
    assert set(re.findall(r"^\| `(\w+)` \|", CONTRIBUTING, re.MULTILINE)) == sessions()


def test_ci_runs_every_session() -> None:
    """But for what needs a quiet machine, or the Python of a baseline, what is for who changes the pages that promise
    something, and parts of the README's command."""
    run = set(re.findall(r"^sessions ([a-z ]+) (?:>|&)", CI, re.MULTILINE))
    apart = {"bench", "fast", "instructions", "promises", "test"}
    assert {name for names in run for name in names.split()} == sessions() - apart


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_paths_that_are_named_exist(page: str) -> None:
    """No link leads nowhere, and no file that is named is gone."""
    text = (ROOT / page).read_text()
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)", text) + re.findall(r"`((?:tests|docs|scripts)/[\w./]+)`", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_pythons_are_those_of_the_metadata() -> None:
    """The oldest that is promised is the first that is tested, and no version in between is left out."""
    metadata = (ROOT / "pyproject.toml").read_text()
    minors = [int(minor) for minor in re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', metadata)]
    assert minors == list(range(minors[0], minors[-1] + 1))
    assert f'requires-python = ">=3.{minors[0]}"' in metadata
