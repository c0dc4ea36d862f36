"""Schedulers and an optimizer that takes another's place. Warnings are errors here, torch's among them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, SequentialLR, StepLR

from torchrelay.strategies.schedulers import expect_updates, follow

SCHEDULERS = {
    "plain": lambda o: StepLR(o, 1, gamma=0.5),
    "sequence": lambda o: SequentialLR(o, [StepLR(o, 1, gamma=0.5), LinearLR(o)], milestones=[9]),
    "chain": lambda o: ChainedScheduler([StepLR(o, 1, gamma=0.5)]),
}


def optimizer(**options):
    parameter = torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return torch.optim.SGD([parameter], lr=1.0, **options)


@pytest.fixture(params=SCHEDULERS)
def scheduler(request):
    return SCHEDULERS[request.param]


def test_steer_the_new_one(scheduler):
    old, new = optimizer(), optimizer()
    follower = scheduler(old)
    follow([follower], old, new)
    follower.step()
    assert new.param_groups[0]["lr"] == 0.5
    assert old.param_groups[0]["lr"] == 1.0


def test_leave_a_third_one_alone():
    old, new, third = optimizer(), optimizer(), optimizer()
    follower = StepLR(third, 1)
    follow([follower], old, new)
    assert follower.optimizer is third


def test_the_new_one_still_steps_once():
    old, new = optimizer(), optimizer()
    followers = [StepLR(old, 1), StepLR(old, 2)]
    follow(followers, old, new)
    new.step()
    assert new.param_groups[0]["params"][0].tolist() == [0.0, 0.0]


def test_the_new_one_is_freed_without_the_garbage_collector():
    old, new = optimizer(), optimizer()
    follower = StepLR(old, 1)
    follow([follower], old, new)
    alive = weakref.ref(new)
    gc.disable()
    try:
        follower.optimizer = old
        del new
        assert alive() is None
    finally:
        gc.enable()


def test_a_step_that_was_replaced_on_the_instance_is_kept():
    old, new = optimizer(), optimizer()
    called = []
    new.step = lambda: called.append(True)
    follower = StepLR(old, 1)
    follow([follower], old, new)
    new.step()
    follower.step()
    assert called == [True]


def test_updates_made_elsewhere(scheduler):
    steered = optimizer()
    follower = scheduler(steered)
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step"):
        scheduler(optimizer()).step()
    expect_updates([follower])
    follower.step()
    assert steered.param_groups[0]["lr"] == 0.5
