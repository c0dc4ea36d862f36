"""What a module may override of an update: backward, clearing, clipping, schedulers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from torchrelay import Callback
from torchrelay.errors import ConfigurationError
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import SingleDeviceStrategy


def trained(boring, make_trainer, options=None, **methods):
    module = boring.regression(**methods)
    make_trainer(max_epochs=2, **(options or {})).fit(module, boring.loader(), boring.loader(4))
    return boring.weights(module)


CLIP = {"gradient_clip_val": 0.01}


@pytest.mark.parametrize("options", [CLIP, {**CLIP, "gradient_clip_algorithm": "value"}], ids=str)
def test_own_clipping_that_hands_over_clips_as_the_trainer_would(boring, make_trainer, options):
    calls = []

    def clip(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        calls.append((gradient_clip_val, gradient_clip_algorithm))
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    own = trained(boring, make_trainer, options, configure_gradient_clipping=clip)
    usual = trained(boring, make_trainer, options)
    assert boring.difference(own, usual) == 0
    assert boring.difference(usual, trained(boring, make_trainer)) > 1e-4
    assert calls == [(0.01, options.get("gradient_clip_algorithm"))] * 10


def test_own_clipping_takes_the_place_of_the_trainers(boring, make_trainer):
    def clip(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        assert gradient_clip_val is None
        for parameter in self.parameters():
            parameter.grad.zero_()

    before = boring.weights(boring.regression())
    assert (
        boring.difference(trained(boring, make_trainer, configure_gradient_clipping=clip), before)
        == 0
    )


def test_own_clipping_sees_each_window_once(boring, make_trainer):
    count = []
    trained(
        boring,
        make_trainer,
        {"accumulate_grad_batches": 2},
        configure_gradient_clipping=lambda self, *args: count.append(1),
    )
    assert len(count) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.5,), r"gradient_clip_val=0.5\) contradicts Trainer\(gradient_clip_val=0.01\)"),
        ((None, "value"), r"gradient_clip_algorithm='value'\) contradicts"),
    ],
)
def test_two_limits_are_refused(boring, make_trainer, arguments, message):
    def clip(self, optimizer, *given):
        self.clip_gradients(optimizer, *arguments)

    with pytest.raises(ConfigurationError, match=message):
        trained(
            boring,
            make_trainer,
            {**CLIP, "gradient_clip_algorithm": "norm"},
            configure_gradient_clipping=clip,
        )
    with pytest.raises(
        ConfigurationError, match=r"gradient_clip_algorithm='l1'.* must be 'norm' or 'value'"
    ):
        trained(
            boring,
            make_trainer,
            configure_gradient_clipping=lambda self, o, *_: self.clip_gradients(o, 1.0, "l1"),
        )


def test_own_clipping_needs_gradients_that_can_be_seen(boring, make_trainer):
    class Blind(SingleDeviceStrategy):
        capabilities = Capabilities({Capability.GRADIENTS_VISIBLE: unsupported("they are sealed")})

    with pytest.raises(Exception, match=r"configure_gradient_clipping needs .*: they are sealed"):
        trained(
            boring,
            make_trainer,
            {"strategy": Blind()},
            configure_gradient_clipping=lambda self, *_: None,
        )


def test_own_clipping_beside_a_strategy_that_clips_is_refused(boring, make_trainer):
    class Clipping(SingleDeviceStrategy):
        def negotiate(self, plan):
            return replace(plan, clip=None)

    with pytest.raises(
        ConfigurationError, match=r"gradient_clip_val=0.01 is what Clipping clips by itself"
    ):
        trained(
            boring,
            make_trainer,
            {"strategy": Clipping(), **CLIP},
            configure_gradient_clipping=lambda self, *_: None,
        )


def test_own_clearing(boring, make_trainer):
    calls = []

    def clear(self, epoch, batch_idx, optimizer):
        calls.append((epoch, batch_idx))
        optimizer.zero_grad(set_to_none=True)

    own = trained(boring, make_trainer, {"accumulate_grad_batches": 2}, optimizer_zero_grad=clear)
    usual = trained(boring, make_trainer, {"accumulate_grad_batches": 2})
    assert boring.difference(own, usual) == 0
    assert calls == [(epoch, i) for epoch in range(2) for i in (0, 2, 4)]
    never = trained(boring, make_trainer, optimizer_zero_grad=lambda self, *_: None)
    assert boring.difference(never, trained(boring, make_trainer)) > 1e-4


def test_own_backward(boring, make_trainer):
    def doubled(self, loss):
        (2 * loss).backward()

    def halved_rate(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

    own = trained(boring, make_trainer, backward=doubled, configure_optimizers=halved_rate)
    assert boring.difference(own, trained(boring, make_trainer)) < 1e-6


def test_a_run_does_not_inherit_the_backward_of_the_one_before(boring, make_trainer):
    calls = []

    def noted(self, loss):
        calls.append(1)
        loss.backward()

    trainer = make_trainer()
    trainer.fit(boring.regression(backward=noted), boring.loader())
    assert len(calls) == 5
    trainer.progress.epoch = 0
    trainer.fit(boring.regression(), boring.loader())
    assert len(calls) == 5


def scheduled(kind, interval="epoch"):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = (
            StepLR(optimizer, 1) if kind == "step" else ReduceLROnPlateau(optimizer, patience=0)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss", "interval": interval},
        }

    return configure_optimizers


@pytest.mark.parametrize(
    ("kind", "interval", "number"),
    [("step", "epoch", 2), ("step", "step", 10), ("plateau", "epoch", 2)],
)
def test_own_scheduler_step(boring, make_trainer, kind, interval, number):
    calls = []

    def step(self, scheduler, metric):
        calls.append(metric)
        super(type(self), self).lr_scheduler_step(scheduler, metric)

    configure = scheduled(kind, interval)
    own = trained(boring, make_trainer, configure_optimizers=configure, lr_scheduler_step=step)
    assert (
        boring.difference(own, trained(boring, make_trainer, configure_optimizers=configure)) == 0
    )
    assert len(calls) == number
    assert all((metric is None) == (kind == "step") for metric in calls)


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_own_modes_of_evaluation(boring, make_trainer, stage):
    calls = []
    module = boring.regression(
        dropout=0.5,
        **{
            f"on_{stage}_model_eval": lambda self: calls.append("eval"),
            f"on_{stage}_model_train": lambda self: calls.append("train"),
            f"{stage}_step": lambda self, batch, batch_idx: calls.append(self.training),
        },
    )
    run = getattr(make_trainer(), {"validation": "validate"}.get(stage, stage))
    run(module, boring.loader(4))
    assert calls == ["eval", True, "train"]


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_hooks_of_evaluation_may_leave_out_the_number_of_the_loader(boring, make_trainer, stage):
    calls = []

    class Listener(Callback):
        pass

    setattr(
        Listener,
        f"on_{stage}_batch_end",
        lambda self, trainer, module, outputs, batch, batch_idx: calls.append("callback"),
    )
    setattr(
        Listener,
        f"on_{stage}_batch_start",
        lambda self, trainer, module, batch, batch_idx: calls.append("callback"),
    )
    module = boring.regression(
        **{
            f"on_{stage}_batch_start": lambda self, batch, batch_idx: calls.append("start"),
            f"on_{stage}_batch_end": lambda self, outputs, batch, batch_idx: calls.append("end"),
        }
    )
    run = getattr(make_trainer(callbacks=Listener()), {"validation": "validate"}.get(stage, stage))
    run(module, boring.loader(4))
    assert calls == ["callback", "start", "callback", "end"]


def test_steps_without_batch_idx_and_with_more(boring, make_trainer):
    def training_step(self, batch, scale=1.0):
        return self.loss(batch) * scale

    def validation_step(self, batch, *, batch_idx, dataloader_idx):
        self.log("val_loss", self.loss(batch) + batch_idx + dataloader_idx)

    own = trained(
        boring, make_trainer, training_step=training_step, validation_step=validation_step
    )
    assert boring.difference(own, trained(boring, make_trainer)) == 0
    with pytest.raises(
        ConfigurationError, match=r"Regression.training_step has the parameter 'optimizer_idx'"
    ):
        trained(
            boring, make_trainer, training_step=lambda self, batch, batch_idx, optimizer_idx: None
        )
