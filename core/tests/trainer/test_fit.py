from __future__ import annotations

import gc
import weakref

import pytest
import torch

from torchrelay import Callback, LightningModule
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.outputs import loss_of


class Counter(Callback):
    """Counts batches and epochs by stage."""

    def __init__(self):
        self.train, self.validation, self.epochs, self.sanity = 0, 0, 0, 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.train += 1

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs += 1

    def on_validation_batch_end(
        self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0
    ):
        if trainer.sanity_checking:
            self.sanity += 1
        else:
            self.validation += 1


def run(boring, make_trainer, *, module=None, train=None, callbacks=(), **options):
    """Fit five batches an epoch, validating three; what was counted, and the trainer."""
    counter = Counter()
    trainer = make_trainer(callbacks=[*callbacks, counter], **options)
    trainer.fit(module or boring.regression(), train or boring.loader(20), boring.loader(12))
    return counter, trainer


@pytest.mark.parametrize(
    ("options", "epochs", "batches", "steps"),
    [
        ({"max_epochs": 2}, 2, 10, 10),
        ({"max_epochs": 0}, 0, 0, 0),
        ({"max_epochs": 2, "accumulate_grad_batches": 2}, 2, 10, 6),
        ({"max_epochs": None, "max_steps": 7}, 2, 7, 7),
        ({"max_epochs": -1, "max_steps": 5}, 1, 5, 5),
        ({"max_epochs": 9, "max_steps": 4, "accumulate_grad_batches": 2}, 2, 7, 4),
        ({"max_epochs": 2, "max_steps": 100}, 2, 10, 10),
        ({"max_steps": 0}, 0, 0, 0),
        ({"limit_train_batches": 3}, 1, 3, 3),
        ({"limit_train_batches": 99}, 1, 5, 5),
        ({"limit_train_batches": 0.5}, 1, 2, 2),
        ({"limit_train_batches": 1.0}, 1, 5, 5),
        ({"limit_train_batches": 1}, 1, 1, 1),
        ({"limit_train_batches": 0}, 0, 0, 0),
        ({"limit_train_batches": 3, "accumulate_grad_batches": 2}, 1, 3, 2),
        ({"fast_dev_run": True, "max_epochs": 5}, 1, 1, 1),
        ({"fast_dev_run": 3, "max_epochs": 5}, 1, 3, 3),
    ],
    ids=str,
)
def test_how_long(boring, make_trainer, options, epochs, batches, steps):
    counter, trainer = run(boring, make_trainer, **options)
    assert (counter.epochs, counter.train, trainer.global_step) == (epochs, batches, steps)
    assert trainer.progress.batches == batches


@pytest.mark.parametrize(
    ("options", "validated", "tried"),
    [
        ({}, 3, 2),
        ({"num_sanity_val_steps": 0}, 3, 0),
        ({"num_sanity_val_steps": -1}, 3, 3),
        ({"limit_val_batches": 1}, 1, 1),
        ({"limit_val_batches": 0.67}, 2, 2),
        ({"limit_val_batches": 0}, 0, 0),
        ({"max_epochs": 5, "check_val_every_n_epoch": 2}, 6, 2),
        ({"fast_dev_run": 2, "check_val_every_n_epoch": 2}, 2, 0),
        ({"max_steps": 3}, 0, 2),
    ],
    ids=str,
)
def test_how_much_is_validated(boring, make_trainer, options, validated, tried):
    counter, _ = run(boring, make_trainer, **options)
    assert (counter.validation, counter.sanity) == (validated, tried)


def test_a_limit_of_nothing_is_no_validation(boring, make_trainer):
    def on_validation_start(self):
        pytest.fail("validation has begun")

    module = boring.regression(on_validation_start=on_validation_start)
    _, trainer = run(boring, make_trainer, module=module, limit_val_batches=0)
    assert not trainer.enable_validation


def test_a_module_without_validation_step_is_not_validated(boring, make_trainer):
    module = boring.regression(validation_step=LightningModule.validation_step)
    counter, trainer = run(boring, make_trainer, module=module)
    assert (counter.validation, counter.sanity, trainer.enable_validation) == (0, 0, False)


class StopAt(Callback):
    """Asks for the end after so many batches."""

    def __init__(self, batches):
        self.batches = batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.should_stop or trainer.progress.batches >= self.batches


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, 2),
        ({"accumulate_grad_batches": 3}, 3),
        ({"min_epochs": 1}, 5),
        ({"min_epochs": 2}, 10),
        ({"min_steps": 4}, 4),
        ({"min_steps": 7, "min_epochs": 1}, 7),
        ({"min_epochs": 9}, 15),
    ],
    ids=str,
)
def test_should_stop_waits_for_the_minimum_and_the_end_of_a_window(
    boring, make_trainer, options, batches
):
    counter, _ = run(boring, make_trainer, callbacks=[StopAt(2)], max_epochs=3, **options)
    assert counter.train == batches


@pytest.mark.parametrize("options", [{}, {"limit_train_batches": 3}, {"max_steps": 7}], ids=str)
def test_loaders_without_a_length(boring, make_trainer, options):
    stream = boring.Stream(list(boring.loader(20)))
    unsized, _ = run(boring, make_trainer, train=stream, max_epochs=2, **options)
    sized, _ = run(boring, make_trainer, max_epochs=2, **options)
    assert vars(unsized) == vars(sized)


@pytest.mark.parametrize("train", [[], iter([])], ids=["empty", "without-length"])
def test_data_without_a_batch_is_refused(boring, make_trainer, train):
    with pytest.raises(
        ConfigurationError, match="gave no batch in epoch 0; give a data loader that is not empty"
    ):
        make_trainer().fit(boring.regression(), train)


def test_an_iterator_is_refused_when_it_is_used_up(boring, make_trainer):
    with pytest.raises(ConfigurationError, match=r"no batch in epoch 1; .*an iterator cannot"):
        make_trainer(max_epochs=2).fit(boring.regression(), (batch for batch in boring.loader()))


def test_a_loader_shorter_than_its_length_is_refused(boring, make_trainer):
    class Liar(boring.Stream):
        def __len__(self):
            return 9

    with pytest.raises(ConfigurationError, match="ended after 5 batches, but its length says 9"):
        make_trainer().fit(boring.regression(), Liar(list(boring.loader())))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_on_train_batch_start_ends_an_epoch(boring, make_trainer, accumulate):
    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 3 else None

    options = {"max_epochs": 2, "accumulate_grad_batches": accumulate}
    module = boring.regression(on_train_batch_start=on_train_batch_start)
    counter, trainer = run(boring, make_trainer, module=module, **options)
    assert (counter.epochs, counter.train, counter.validation) == (2, 6, 6)
    assert (trainer.current_epoch, trainer.global_step) == (2, 6 // accumulate - (accumulate - 1))


def test_gradients_of_a_window_that_was_not_finished_are_dropped(boring, make_trainer):
    gradients = []

    def on_train_batch_start(self, batch, batch_idx):
        return -1 if batch_idx == 1 and self.current_epoch == 0 else None

    def on_before_optimizer_step(self, optimizer):
        gradients.append(self.net[0].bias.grad.clone())

    def loss_of_ones(self, batch, batch_idx):
        return self.net[0].bias.sum()

    module = boring.regression(
        training_step=loss_of_ones,
        on_train_batch_start=on_train_batch_start,
        on_before_optimizer_step=on_before_optimizer_step,
    )
    make_trainer(max_epochs=2, limit_train_batches=2, accumulate_grad_batches=2).fit(
        module, boring.loader()
    )
    assert len(gradients) == 1
    assert torch.equal(gradients[0], torch.ones(8))


def test_training_step_may_return_none_to_skip_an_update(boring, make_trainer):
    seen, outputs = [], []

    def training_step(self, batch, batch_idx):
        return None if batch_idx in (0, 2) else self.loss(batch)

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, output, batch, batch_idx):
            outputs.append(output)
            seen.append(boring.weights(pl_module))

    module = boring.regression(training_step=training_step)
    before = boring.weights(module)
    make_trainer(callbacks=Watch()).fit(module, boring.loader())
    moved = [boring.difference(a, b) > 0 for a, b in zip([before, *seen], seen, strict=False)]
    assert moved == [False, True, False, True, True]
    assert [output == {} for output in outputs] == [True, False, True, False, False]
    assert not any(output["loss"].requires_grad for output in outputs if output)


def test_a_second_fit_goes_on_and_a_new_trainer_begins_anew(boring, make_trainer):
    counter = Counter()
    trainer = make_trainer(max_epochs=2, callbacks=counter)
    module = boring.regression()
    trainer.fit(module, boring.loader())
    trainer.fit(module, boring.loader())
    assert counter.epochs == 2


@pytest.mark.parametrize(
    "outputs", ["loss", 1.0, {"loss": 1.0}, {"los": torch.ones(())}, [torch.ones(())]], ids=repr
)
def test_a_training_step_that_returns_something_else(outputs):
    with pytest.raises(ConfigurationError, match=r"training_step returned \w+; return the loss"):
        loss_of(outputs)


def test_the_loss_in_a_dict(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        return {"loss": self.loss(batch), "extra": 1}

    one, other = boring.regression(training_step=training_step), boring.regression()
    for module in (one, other):
        make_trainer().fit(module, boring.loader())
    assert boring.difference(boring.weights(one), boring.weights(other)) == 0.0


def test_trying_validation_first_changes_nothing(boring, make_trainer):
    results = []
    for steps in (0, 2):
        module = boring.regression(dropout=0.5)
        trainer = make_trainer(num_sanity_val_steps=steps)
        torch.manual_seed(7)
        trainer.fit(module, boring.loader(shuffle=True), boring.loader())
        results.append(boring.weights(module))
    assert boring.difference(*results) == 0.0


@pytest.mark.parametrize(("ends_at", "expected"), [(0, []), (1, []), (2, [2, 4]), (3, [2, 5])])
def test_an_epoch_that_a_hook_ends_is_not_validated_twice(boring, make_trainer, ends_at, expected):
    seen = []
    module = boring.regression(
        on_train_batch_start=lambda self, batch, i: -1 if i == ends_at else None,
        on_validation_start=lambda self: seen.append(self.trainer.progress.batches),
    )
    trainer = make_trainer(max_epochs=2, val_check_interval=2, num_sanity_val_steps=0)
    trainer.fit(module, boring.loader(), boring.loader(4))
    assert seen == expected


@pytest.mark.parametrize(("accumulate", "batches"), [(1, 3), (2, 4), (4, 4)])
def test_a_stop_in_validation_takes_effect_at_the_next_update(
    boring, make_trainer, accumulate, batches
):
    def stop(self):
        self.trainer.should_stop = True

    trainer = make_trainer(
        val_check_interval=3, accumulate_grad_batches=accumulate, num_sanity_val_steps=0
    )
    module = boring.regression(on_validation_end=stop)
    trainer.fit(module, boring.loader(), boring.loader(4))
    assert (trainer.progress.batches, trainer.current_epoch) == (batches, 0)


def test_every_loader_is_told_the_epoch(boring, make_trainer):
    class Told(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            told.append((self.name, epoch))

    def loader(name):
        sampler = Told(boring.samples(8))
        sampler.name = name
        return boring.loader(8, sampler=sampler)

    told = []
    module = boring.regression(training_step=lambda self, batch, i: self.loss(batch["a"][0]))
    trainer = make_trainer(max_epochs=2, limit_train_batches=1)
    trainer.fit(module, {"a": [loader("x"), loader("y")], "b": loader("z")})
    assert told == [(name, epoch) for epoch in (0, 1) for name in "xyz"]


def test_what_the_last_batch_left_is_let_go_of(boring, make_trainer):
    class Kept(type(boring.regression())):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.last = weakref.ref(loss)
            return loss

    module = Kept()
    _, trainer = run(boring, make_trainer, module=module, max_epochs=1)
    gc.collect()
    assert trainer.optimizers
    assert module.last() is None
