from __future__ import annotations

import os

import pytest

from torchrelay.environments.seat import VARIABLE, Seat
from torchrelay.errors import LaunchError

SEAT = Seat(1, 1, 2, 2, 0, "127.0.0.1", 4321, 77, "/tmp/reports", {"torch": "2.9.0"})


def test_a_seat_survives_the_environment_variable():
    variables = SEAT.variables()
    assert Seat.of(variables) == SEAT
    assert variables["RANK"] == variables["LOCAL_RANK"] == "1"
    assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "2"
    assert variables["NODE_RANK"] == "0"
    assert (variables["MASTER_ADDR"], variables["MASTER_PORT"]) == ("127.0.0.1", "4321")


def test_without_the_variable_nobody_is_seated():
    assert Seat.of({}) is None
    assert Seat.of({VARIABLE: ""}) is None


def test_a_process_that_a_worker_started_is_not_a_worker():
    mine = SEAT.taken_by(os.getpid())
    theirs = SEAT.taken_by(os.getppid())
    assert Seat.of({VARIABLE: mine.to_json()}) == mine
    assert Seat.of({VARIABLE: theirs.to_json()}) is None


@pytest.mark.parametrize("text", ["1", "{}", "not json", '{"rank": 1, "unknown": 2}'])
def test_somebody_elses_variable_is_refused_in_one_line(text):
    with pytest.raises(LaunchError, match=f"unset {VARIABLE}") as caught:
        Seat.of({VARIABLE: text})
    assert "\n" not in str(caught.value)
