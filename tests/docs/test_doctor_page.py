"""The page on the doctor has what the doctor says."""

from __future__ import annotations

from pathlib import Path

import pytest

from litestar_safe_sse._doctor.contract import PROBES
from litestar_safe_sse._doctor.findings import Fault
from litestar_safe_sse._doctor.remedies import REMEDIES
from litestar_safe_sse.cli import doctor

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


@pytest.mark.parametrize("fault", Fault)
def test_every_fault_has_its_remedies_there(fault: Fault) -> None:
    """The same as the doctor's own, for each proxy."""
    assert f"\n`{fault.value}`. " in PAGE
    for proxy, remedy in REMEDIES[fault].items():
        assert f"\n| {proxy} | {remedy} |\n" in PAGE


def test_every_probe_and_option_is_there() -> None:
    """None is left out."""
    assert [name for name in PROBES if f"\n| `{name}` | " not in PAGE] == []
    options = [option for parameter in doctor.params for option in parameter.opts if option.startswith("--")]
    assert [option for option in options if f"`{option}" not in PAGE] == []
