from __future__ import annotations

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.trainer import bounds


def test_what_passes():
    bounds.check_least(3, 3, "n")
    bounds.check_flag(None, "n", optional=True)
    bounds.check_flag(False, "n")
    for limit in (None, 0, 7, 0.0, 0.5, 1.0):
        bounds.check_limit(limit, "n")
    for interval, epochs in ((None, 1), (1, None), (0.5, 2), (1.0, 1)):
        bounds.check_validation(interval, epochs)


@pytest.mark.parametrize("value", [2, 3.0, True, None, "3"])
def test_too_small_or_no_whole_number(value):
    with pytest.raises(ConfigurationError, match=r"^n=.* must be a whole number from 3$"):
        bounds.check_least(value, 3, "n")


@pytest.mark.parametrize(
    ("interval", "epochs"), [(0, 1), (0.0, 1), (1.1, 1), (True, 1), (0.5, None)]
)
def test_no_interval(interval, epochs):
    with pytest.raises(ConfigurationError, match="val_check_interval="):
        bounds.check_validation(interval, epochs)
