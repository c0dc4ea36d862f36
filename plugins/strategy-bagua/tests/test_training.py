"""Each rule of Bagua's, kept by the strategy, in one process on the simulator."""

from __future__ import annotations

import bagua_rules as rules
import pytest

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("check", rules.CHECKS, ids=lambda check: check.__name__)
def test_the_strategy_keeps_the_rule(check):
    check()
