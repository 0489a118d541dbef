"""The reference pages know every public name and every setting."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import litestar_safe_sse
from litestar_safe_sse import CloseReason, SafeServerSentEvent, SafeSSEConfig, StreamState, exceptions, sources

DOCS = Path(__file__).parents[2] / "docs"


def first_cells(page: str) -> set[str]:
    """The names between backticks in the first column of a page's tables."""
    rows = re.findall(r"^\| (`[^|]+) \|", (DOCS / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([A-Za-z_]+)`", row)}


@pytest.mark.parametrize("module", [litestar_safe_sse, exceptions, sources])
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    """What can be imported is documented."""
    directive = r"^\.\. auto(?:class|data|exception|function):: ([\w.]+)(?:\(\))?$"
    documented = re.findall(directive, (DOCS / "api.md").read_text(), re.MULTILINE)
    assert set(module.__all__) <= {name.rpartition(".")[2] for name in documented}


def test_every_setting_is_in_the_table_with_its_default() -> None:
    """The table of settings is that of the class."""
    page = (DOCS / "configuration.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .* \| (.+?) \|$", page, re.MULTILINE)
    fields = dataclasses.fields(SafeSSEConfig)
    documented = {name: default.replace("\\\\", "\\") for name, default, _ in rows}
    assert documented == {field.name: repr(field.default).replace("'", '"') for field in fields}
    parameters = inspect.signature(SafeServerSentEvent).parameters
    assert {name for name, _, where in rows if where == "yes"} == {f.name for f in fields if f.name in parameters}


def test_every_state_and_reason_is_explained() -> None:
    """The page on the life of a stream leaves none out."""
    explained = first_cells("lifecycle.md")
    assert {state.name for state in StreamState} <= explained
    assert {reason.name for reason in CloseReason} <= explained


def test_links_between_pages_lead_somewhere() -> None:
    """Pages and headings that are linked to exist."""
    broken = []
    for page in DOCS.rglob("*.md"):
        for target, heading in re.findall(r"\]\((?!https?:)([\w./-]*)(?:#([\w-]+))?\)", page.read_text()):
            linked = page.parent / target if target else page
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE) if linked.exists() else []
            slugs = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
            if not linked.exists() or (heading and heading not in slugs):
                broken.append(f"{page.name}: {target}#{heading}")
    assert broken == []


def test_oldest_litestar_is_that_of_the_metadata() -> None:
    """Readers are told the floor that CI tests."""
    root = DOCS.parent
    floors = re.findall(r'"litestar>=([\d.]+),', (root / "pyproject.toml").read_text())
    for page in (DOCS / "quickstart.md", root / "CHANGELOG.md"):
        assert re.findall(r"Litestar ([\d.]+\d)", page.read_text()) == floors, page.name
