from __future__ import annotations

import dataclasses
import inspect
import math

import pytest

from torchrelay import Trainer
from torchrelay.strategies import Clip, Plan
from torchrelay.trainer.options import Options


def test_options_are_arguments_of_the_trainer_with_the_same_defaults():
    arguments = inspect.signature(Trainer).parameters
    for field in dataclasses.fields(Options):
        assert arguments[field.name].default == field.default, field.name


def test_every_argument_of_the_trainer_is_documented():
    documented = Trainer.__doc__
    for name in inspect.signature(Trainer).parameters:
        assert f"    {name}: " in documented, name


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, Plan()),
        ({"accumulate_grad_batches": 3}, Plan(accumulate=3, loss_divisor=3)),
        ({"gradient_clip_val": 2}, Plan(clip=Clip(2.0, "norm"))),
        (
            {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"},
            Plan(clip=Clip(0.5, "value")),
        ),
        ({"gradient_clip_val": 0}, Plan()),
    ],
    ids=str,
)
def test_the_plan(options, plan):
    assert Options(**options).plan == plan


@pytest.mark.parametrize(
    ("options", "epochs", "steps"),
    [
        ({}, 1000, math.inf),
        ({"max_epochs": 3}, 3, math.inf),
        ({"max_epochs": -1}, math.inf, math.inf),
        ({"max_steps": 5}, math.inf, 5),
        ({"max_steps": 5, "max_epochs": 3}, 3, 5),
        ({"max_steps": -1}, 1000, math.inf),
        ({"fast_dev_run": True, "max_epochs": 3}, 1, math.inf),
        ({"fast_dev_run": False, "max_epochs": 3}, 3, math.inf),
    ],
    ids=str,
)
def test_where_a_run_ends(options, epochs, steps):
    assert (Options(**options).last_epoch, Options(**options).last_step) == (epochs, steps)


def test_fast_dev_run_tries_a_batch_of_everything():
    for asked, number in ((True, 1), (4, 4)):
        options = Options(fast_dev_run=asked, limit_val_batches=0.5, check_val_every_n_epoch=7)
        assert [options.limit(stage) for stage in ("train", "validate", "test", "predict")] == [
            number
        ] * 4
        assert (options.sanity_steps, options.epochs_to_validation) == (0, 1)


def test_limits_by_stage():
    options = Options(
        limit_train_batches=1, limit_val_batches=2, limit_test_batches=3, limit_predict_batches=0.4
    )
    assert [options.limit(stage) for stage in ("train", "validate", "test", "predict")] == [
        1,
        2,
        3,
        0.4,
    ]
