"""Training, evaluation and prediction on the simulator arrive where the processor does; the rest is refused."""

from __future__ import annotations

import hpu_rules as rules
import pytest

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("check", rules.CHECKS, ids=lambda check: check.__name__)
def test_rule(check):
    check()
