from __future__ import annotations

import pytest

from torchrelay.callbacks import GradientAccumulationScheduler
from torchrelay.errors import ConfigurationError


@pytest.mark.parametrize(
    ("scheduling", "numbers"),
    [
        ({0: 8, 4: 2}, [8, 8, 8, 8, 2, 2]),
        ({2: 3}, [1, 1, 3, 3, 3, 3]),
        ({5: 1, 0: 4, 1: 2}, [4, 2, 2, 2, 2, 1]),
    ],
    ids=str,
)
def test_the_number_of_each_epoch(scheduling, numbers):
    given = dict(scheduling)
    scheduler = GradientAccumulationScheduler(given)
    assert [scheduler.get_accumulate_grad_batches(epoch) for epoch in range(6)] == numbers
    assert scheduler.going_to_accumulate_grad_batches()
    assert given == scheduling


def test_nothing_to_accumulate():
    assert not GradientAccumulationScheduler({3: 1}).going_to_accumulate_grad_batches()


def test_updates_of_each_epoch(boring, make_trainer):
    steps = []
    module = boring.regression(
        on_train_epoch_end=lambda self: steps.append(self.trainer.global_step)
    )
    scheduler = GradientAccumulationScheduler({1: 2, 2: 4})
    trainer = make_trainer(callbacks=scheduler, max_epochs=4)
    for _ in range(2):  # the second finds the epochs done, and is not refused
        trainer.fit(module, boring.loader(20), boring.loader(4))
        assert trainer.accumulate_grad_batches == 1
    assert steps == [5, 8, 10, 12]  # 5 batches, and what is left at an epoch's end updates too


def test_the_weights_are_those_of_trainers_that_accumulate_so_much(boring, make_trainer):
    scheduled = boring.regression()
    callback = GradientAccumulationScheduler({0: 2, 1: 5})
    make_trainer(callbacks=callback, max_epochs=2).fit(scheduled, boring.loader(20))
    by_hand = boring.regression()
    for number in (2, 5):  # plain SGD has no state that a second Trainer would lack
        make_trainer(accumulate_grad_batches=number).fit(by_hand, boring.loader(20))
    assert boring.difference(boring.weights(scheduled), boring.weights(by_hand)) < 1e-6


@pytest.mark.parametrize("scheduling", [{}, None, [2], 4], ids=str)
def test_what_is_no_schedule(scheduling):
    with pytest.raises(ConfigurationError, match="must be a dict of epochs and numbers"):
        GradientAccumulationScheduler(scheduling)


@pytest.mark.parametrize("scheduling", [{-1: 2}, {"0": 2}, {0: 0}, {0: 1.5}, {0: True}], ids=str)
def test_epochs_and_numbers_that_make_no_sense(scheduling):
    with pytest.raises(ConfigurationError, match="the epoch must be a whole number from 0, and"):
        GradientAccumulationScheduler(scheduling)


def test_it_is_refused_where_the_trainer_accumulates(boring, make_trainer):
    trainer = make_trainer(
        callbacks=GradientAccumulationScheduler({2: 4}), accumulate_grad_batches=2
    )
    match = (
        r"accumulate_grad_batches=2\) and GradientAccumulationScheduler\(\{0: 1, 2: 4\}\) both say"
    )
    with pytest.raises(ConfigurationError, match=match):
        trainer.fit(boring.regression(), boring.loader())


def test_it_is_refused_with_manual_optimization(boring, make_trainer):
    module = boring.regression()
    module.automatic_optimization = False
    trainer = make_trainer(callbacks=GradientAccumulationScheduler({0: 4}))
    with pytest.raises(ConfigurationError, match="needs automatic optimization, and Regression"):
        trainer.fit(module, boring.loader())
