"""Each sentence of two pages is kept by a test: ``promises.md`` tells by which, and ``breaks.diff`` what fails it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import litestar_safe_sse
from tests.docs.promises import EXPLAINS, TESTS, Break, read_breaks, read_index, read_promises

INDEX = read_index()
DOCS = TESTS.parent / "docs"

OF_LITESTAR = {"before the response streams"}
"""What is said of Litestar, whose tests fail when it changes."""


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


def test_each_promise_can_be_broken() -> None:
    """For each promise ``breaks.diff`` has what fails its tests, and for nothing else."""
    broken = {promise for each in read_breaks() for promise in each.promises}
    assert broken == {*read_promises()} - OF_LITESTAR


@pytest.mark.parametrize("broken", read_breaks(), ids=lambda broken: broken.promises[0])
def test_what_breaks_a_promise_is_of_the_code(broken: Break, tmp_path: Path) -> None:
    """``breaks.diff`` names lines as they are; who changes one changes it there too."""
    package = Path(litestar_safe_sse.__file__).parent
    for module in {change.module for change in broken.changes}:
        (tmp_path / module).parent.mkdir(exist_ok=True)
        (tmp_path / module).write_text((package / module).read_text())
    for change in broken.changes:
        change.apply(tmp_path)
        compile((tmp_path / change.module).read_text(), change.module, "exec")
