from __future__ import annotations

import pytest

from torchrelay.errors import ConfigurationError
from torchrelay.trainer.options import Options
from torchrelay.trainer.validation_schedule import ValidationSchedule


def validations(number, epochs=2, **options):
    """(epoch, batch) of each validation in so many epochs of so many batches."""
    schedule, found, batches = ValidationSchedule(Options(**options), number), [], 0
    for epoch in range(epochs):
        for batch in range(1, number + 1):
            batches += 1
            last = batch == number
            if (last or schedule.inside) and schedule.due(batch, batches, epoch, last=last):
                found.append((epoch, batch))
    return found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(0, 5), (1, 5)]),
        ({"val_check_interval": 1.0}, [(0, 5), (1, 5)]),
        ({"val_check_interval": 5}, [(0, 5), (1, 5)]),
        ({"val_check_interval": 2}, [(0, 2), (0, 4), (1, 2), (1, 4)]),
        ({"val_check_interval": 0.5}, [(0, 2), (0, 4), (1, 2), (1, 4)]),
        ({"val_check_interval": 0.01}, [(e, b) for e in (0, 1) for b in range(1, 6)]),
        ({"check_val_every_n_epoch": 2}, [(1, 5)]),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 3}, [(1, 3)]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 3}, [(0, 3), (1, 1), (1, 4)]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 7}, [(1, 2)]),
        ({"fast_dev_run": True, "val_check_interval": 2}, [(0, 5), (1, 5)]),
    ],
    ids=str,
)
def test_when_it_is_due(options, expected):
    assert validations(5, **options) == expected


def test_without_a_length_the_end_of_an_epoch_is_enough():
    schedule = ValidationSchedule(Options(), None)
    assert not schedule.inside
    assert schedule.due(7, 7, 0, last=True)


@pytest.mark.parametrize(
    ("options", "number", "message"),
    [
        (
            {"val_check_interval": 6},
            5,
            "val_check_interval=6 is more than the 5 .* give at most 5, or .*check_val_every_n_epoch=None",
        ),
        ({"val_check_interval": 0.5}, None, "no length; give a number"),
    ],
    ids=str,
)
def test_what_cannot_be(options, number, message):
    with pytest.raises(ConfigurationError, match=message):
        ValidationSchedule(Options(**options), number)
