"""Strategies whose steps are traced: what the kit demands of them is met by one that is right, and by no wrong one.

`wrong/wrong_traced.py` holds the strategies and a table `MUTATIONS`: family, check and class -> subject.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from torchrelay.testing import Check, Kit, Status
from torchrelay.testing.families import checks_of

WRONG = str(Path(__file__).with_name("wrong"))
if WRONG not in sys.path:
    sys.path.insert(0, WRONG)

import wrong_traced  # noqa: E402

pytestmark = pytest.mark.timeout(400)


CONCERNED = {name for _, name, _ in wrong_traced.MUTATIONS}
"""The checks that look at steps in another way where these are traced."""


def failed(subject: Any, checks: Iterable[Check]) -> dict[str, str]:
    """The checks that a subject fails, and what was seen."""
    kit = Kit(subject)
    try:
        report = kit.report(checks)
    finally:
        kit.close()
    return {each.check.name: each.detail for each in report.results if each.status is Status.FAILED}


@pytest.mark.parametrize("family", ["loop", "failure"])
def test_one_that_is_right_passes(family: str) -> None:
    assert failed(wrong_traced.subject(wrong_traced.TracedStrategy), checks_of(family)) == {}


@pytest.mark.parametrize("mutation", wrong_traced.MUTATIONS, ids="-".join)
def test_a_wrong_one_fails_one_check(mutation: tuple[str, str, str]) -> None:
    family, name, _ = mutation
    checks = [each for each in checks_of(family) if each.name in CONCERNED]
    found = failed(wrong_traced.MUTATIONS[mutation], checks)
    assert list(found) == [name], found
