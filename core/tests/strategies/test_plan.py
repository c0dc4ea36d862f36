"""What a strategy leaves of a plan has to add up."""

from __future__ import annotations

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.strategies import Clip, Plan


@pytest.mark.parametrize(
    ("asked", "left", "together"),
    [
        (Plan(), Plan(), 1),
        (Plan(4, 4, Clip(1.0)), Plan(4, 4, Clip(1.0)), 1),
        (Plan(4, 4, Clip(1.0)), Plan(4), 1),  # an engine that divides and clips by itself
        (Plan(4, 4), Plan(), 4),  # a window in one call
        (Plan(4, 4), Plan(updates=3), 12),  # three windows in one call
        (Plan(8, 8), Plan(2, 2), 4),  # the loop still accumulates larger batches
    ],
)
def test_batches_of_the_user_in_one_of_the_loop(asked, left, together):
    assert left.combines(asked) == together


@pytest.mark.parametrize(
    ("asked", "left"), [(Plan(4), Plan(3)), (Plan(), Plan(2)), (Plan(), Plan(updates=0))]
)
def test_an_answer_that_does_not_add_up(asked, left):
    with pytest.raises(
        ConfigurationError, match=r"negotiate\(Plan\(.*tell the strategy's authors$"
    ):
        left.combines(asked)
