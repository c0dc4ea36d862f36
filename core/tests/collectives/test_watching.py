from __future__ import annotations

import pytest
import torch

from torchrelay.collectives import NoCollectives
from torchrelay.collectives.watching import COLLECTIVES, HISTORY, Activity


class Looking(NoCollectives):
    """Notes where its process is said to be while it is in a collective."""

    def __init__(self, activity: Activity) -> None:
        self.activity = activity
        self.seen: list[tuple[str, str, int]] = []

    def look(self) -> None:
        point = self.activity.point
        self.seen.append((point.kind, point.title, point.number))

    def reduce(self, value, op="mean"):
        self.look()
        return super().reduce(value, op)

    def all(self, decision):
        return bool(self.reduce(decision))

    def broadcast(self, value, src=0):
        self.look()
        raise ValueError("lost")

    def barrier(self, name=""):
        self.look()


@pytest.fixture
def activity() -> Activity:
    return Activity()


@pytest.fixture
def collectives(activity) -> Looking:
    made = Looking(activity)
    vars(made).update(activity.cover(made))
    return made


def test_every_collective_of_the_contract_is_covered(activity):
    covered = activity.cover(NoCollectives())
    assert set(covered) == set(COLLECTIVES)
    contract = {name for name, value in vars(NoCollectives).items() if callable(value)}
    assert contract - set(covered) == {"connect", "close"}


def test_a_collective_is_numbered_named_and_left(activity, collectives):
    assert activity.point is None
    assert collectives.reduce(torch.tensor(3.0)) == 3
    collectives.barrier("here")
    collectives.barrier(name="there")
    collectives.barrier()
    assert collectives.seen == [
        ("collective", "reduce", 1),
        ("collective", "barrier 'here'", 2),
        ("collective", "barrier 'there'", 3),
        ("collective", "barrier", 4),
    ]
    assert activity.point is None
    assert activity.entered == 4
    assert list(activity.history)[1] == (2, "barrier 'here'")


def test_a_collective_made_of_another_is_one(activity, collectives):
    assert collectives.all(True)
    assert collectives.seen == [("collective", "all", 1)]
    assert activity.entered == 1


def test_the_barrier_of_prepare_data_may_be_waited_in(collectives):
    collectives.barrier("prepare_data")
    assert collectives.seen == [("patient", "barrier 'prepare_data'", 1)]


def test_methods_are_counted_each_by_itself_and_hold_collectives(activity, collectives):
    seen = []

    def step():
        seen.append((activity.point.title, activity.point.number))
        collectives.reduce(1.0)
        seen.append((activity.point.title, activity.point.number))

    backward = activity.method("backward", lambda: None)
    training_step = activity.method("training_step", step)
    for _ in range(2):
        training_step()
        backward()
    assert seen == [("training_step", 1)] * 2 + [("training_step", 2)] * 2
    assert collectives.seen == [("collective", "reduce", 1), ("collective", "reduce", 2)]
    assert activity.entered == 6


def test_the_first_point_that_failed_is_kept(activity, collectives):
    step = activity.method("training_step", lambda: collectives.broadcast(1))
    with pytest.raises(ValueError, match="lost"):
        step()
    assert (activity.broken.title, activity.point) == ("broadcast", None)


def test_old_collectives_are_forgotten(activity, collectives):
    for _ in range(HISTORY + 5):
        collectives.reduce(1.0)
    assert len(activity.history) == HISTORY
    assert activity.history[-1] == (HISTORY + 5, "reduce")
