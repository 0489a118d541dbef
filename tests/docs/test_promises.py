"""Each sentence of two pages is kept by a test: ``promises.md`` tells by which."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCS = TESTS.parent / "docs"
EXPLAINS = "(explains)"


def index() -> dict[str, dict[str, list[str]]]:
    """For each page, the phrases and the tests of each."""
    pages: dict[str, dict[str, list[str]]] = {}
    phrases: dict[str, list[str]] = {}
    tests: list[str] = []
    for line in (TESTS / "docs" / "promises.md").read_text().splitlines():
        if line.startswith("# "):
            phrases = pages[line[2:]] = {}
        elif line.startswith("- "):
            tests = phrases[line[2:]] = []
        elif line.startswith("  "):
            tests.append(line.strip())
    return pages


INDEX = index()


def sentences(page: str) -> list[str]:
    """The sentences of a page, and the rows of its tables; headings and code are left out."""
    text = re.sub(r"```.*?```|<!--.*?-->", "", (DOCS / page).read_text(), flags=re.DOTALL)
    found = []
    for block in re.split(r"\n\s*\n", text):
        if block.lstrip().startswith("|"):
            found += [row.strip("| ") for row in block.strip().splitlines()[2:]]
        elif block.strip() and not block.lstrip().startswith("#"):
            for item in re.split(r"\n(?=- |\d+\. |: )", block.strip()):
                item = re.sub(r"^(?:- |\d+\. |: )", "", " ".join(item.split()))
                found += re.split(r"(?<=[.?!])\s+(?=[A-Z`(*])", item)
    return found


@pytest.mark.parametrize(("page", "sentence"), [(page, each) for page in INDEX for each in sentences(page)])
def test_a_sentence_is_in_the_index(page: str, sentence: str) -> None:
    """Whoever promises more says what holds it."""
    assert [phrase for phrase in INDEX[page] if phrase in sentence]


@pytest.mark.parametrize("page", INDEX)
def test_the_index_has_no_more_than_the_page(page: str) -> None:
    """A promise that is taken back is taken out."""
    said = sentences(page)
    assert [phrase for phrase in INDEX[page] if not any(phrase in sentence for sentence in said)] == []


@pytest.mark.parametrize("page", INDEX)
def test_what_keeps_a_promise_exists(page: str) -> None:
    """No phrase is without a test, and no test is gone."""
    missing = []
    for phrase, tests in INDEX[page].items():
        for test in tests or ["none"]:
            path, _, name = test.partition("::")
            if test != EXPLAINS and not re.search(rf"^(?:async def|def|class) {name}\b", source(path), re.MULTILINE):
                missing.append(f"{phrase}: {test}")
    assert missing == []


def source(path: str) -> str:
    return (TESTS / path).read_text() if (TESTS / path).is_file() else ""
