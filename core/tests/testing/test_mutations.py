"""Each check is failed by a strategy that is wrong in one thing, and by that one no other of its family.

`wrong/wrong_FAMILY.py` holds the strategies and a table `MUTATIONS`: name of the check -> subject.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchrelay.testing import Kit, Status, Subject
from torchrelay.testing.families import FAMILIES, checks_of

WRONG = Path(__file__).with_name("wrong")
SECONDS = {"failure": 400}
"""How long the checks of a family may take together."""


def table(family: str) -> dict[str, Any]:
    """The wrong subjects of a family, or functions that make one in a folder, by the check that each fails."""
    if str(WRONG) not in sys.path:
        sys.path.insert(0, str(WRONG))
    mutations: dict[str, Any] = importlib.import_module(f"wrong_{family}").MUTATIONS
    return mutations


def cases() -> Iterator[Any]:
    for family in FAMILIES:
        if not (WRONG / f"wrong_{family}.py").exists():
            continue
        for name, subject in table(family).items():
            limit = pytest.mark.timeout(SECONDS.get(family, 240))
            yield pytest.param(family, name, subject, id=f"{family}-{name}", marks=limit)


@pytest.mark.parametrize(("family", "name", "subject"), list(cases()))
def test_a_wrong_strategy_fails_one_check(
    tmp_path: Path, family: str, name: str, subject: Any
) -> None:
    kit = Kit(subject if isinstance(subject, Subject) else subject(tmp_path))
    try:
        report = kit.report(checks_of(family))
    finally:
        kit.close()
    failed = {
        each.check.name: each.detail for each in report.results if each.status is Status.FAILED
    }
    assert list(failed) == [name], failed


@pytest.mark.parametrize("family", FAMILIES)
def test_each_check_has_a_wrong_strategy(family: str) -> None:
    assert {check.name for check in checks_of(family)} == set(table(family))
