"""The real loop beside one written by hand: the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau

EPOCHS = 4
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def raw_loop(
    module, loader, optimizer, *, accumulate=1, clip=None, after_update=None, after_epoch=None
):
    """Train without torchrelay, in float64; windows of `accumulate` batches, the last one shorter if need be."""
    module.double()
    optimizer = optimizer(module.parameters())
    after_update = after_update and after_update(optimizer)
    after_epoch = after_epoch and after_epoch(optimizer)
    for _ in range(EPOCHS):
        losses = []
        for i, (x, y) in enumerate(loader):
            if i % accumulate == 0:
                optimizer.zero_grad()
            loss = nn.functional.mse_loss(module(x.double()), y.double())
            (loss / accumulate).backward()
            losses.append(loss.item())
            if (i + 1) % accumulate and i + 1 < len(loader):
                continue
            if clip:
                clip(module.parameters())
            optimizer.step()
            if after_update:
                after_update.step()
        if after_epoch:
            after_epoch.step(
                *[sum(losses) / len(losses)] * isinstance(after_epoch, ReduceLROnPlateau)
            )
    return module, optimizer


def fitted(boring, make_trainer, optimizer, *, schedule=None, module=None, loader=None, **options):
    """Train with torchrelay, in float64."""

    def configure_optimizers(self):
        made = optimizer(self.parameters())
        return made if schedule is None else {"optimizer": made, "lr_scheduler": schedule(made)}

    module = module or boring.regression(configure_optimizers=configure_optimizers)
    trainer = make_trainer(max_epochs=EPOCHS, precision="64-true", **options)
    trainer.fit(module, loader or boring.loader())
    return module, trainer.optimizers[0]


def assert_equal(boring, one, other):
    assert boring.difference(boring.weights(one[0]), boring.weights(other[0])) <= 1e-12
    assert one[1].param_groups[0]["lr"] == pytest.approx(other[1].param_groups[0]["lr"], rel=1e-12)


def test_the_raw_loop_learns(boring):
    before = boring.weights(boring.regression().double())
    after, _ = raw_loop(boring.regression(), boring.loader(), OPTIMIZERS["sgd"])
    assert boring.difference(before, boring.weights(after)) > 0.1


@pytest.mark.parametrize(
    ("options", "raw"),
    [
        ({}, {}),
        ({"accumulate_grad_batches": 3}, {"accumulate": 3}),
        ({"gradient_clip_val": 0.3}, {"clip": lambda p: nn.utils.clip_grad_norm_(p, 0.3)}),
        (
            {"gradient_clip_val": 0.05, "gradient_clip_algorithm": "value"},
            {"clip": lambda p: nn.utils.clip_grad_value_(p, 0.05)},
        ),
        (
            {"accumulate_grad_batches": 3, "gradient_clip_val": 0.3},
            {"accumulate": 3, "clip": lambda p: nn.utils.clip_grad_norm_(p, 0.3)},
        ),
    ],
    ids=["plain", "accumulate", "norm", "value", "accumulate-and-norm"],
)
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_updates(boring, make_trainer, optimizer, options, raw):
    # 5 batches: with windows of 3 the last one is short.
    mine = fitted(boring, make_trainer, optimizer, **options)
    assert_equal(boring, mine, raw_loop(boring.regression(), boring.loader(), optimizer, **raw))


def test_clipping_and_accumulation_change_the_numbers(boring):
    plain, _ = raw_loop(boring.regression(), boring.loader(), OPTIMIZERS["sgd"])
    for raw in ({"accumulate": 3}, {"clip": lambda p: nn.utils.clip_grad_norm_(p, 0.3)}):
        other, _ = raw_loop(boring.regression(), boring.loader(), OPTIMIZERS["sgd"], **raw)
        assert boring.difference(boring.weights(plain), boring.weights(other)) > 1e-3


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_scheduler_by_step(boring, make_trainer, accumulate):
    def warm_up(optimizer):
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 7))

    mine = fitted(
        boring,
        make_trainer,
        OPTIMIZERS["sgd"],
        schedule=lambda o: {"scheduler": warm_up(o), "interval": "step"},
        accumulate_grad_batches=accumulate,
    )
    raw = raw_loop(
        boring.regression(),
        boring.loader(),
        OPTIMIZERS["sgd"],
        accumulate=accumulate,
        after_update=warm_up,
    )
    assert_equal(boring, mine, raw)


def test_a_scheduler_by_epoch(boring, make_trainer):
    mine = fitted(
        boring, make_trainer, OPTIMIZERS["adamw"], schedule=lambda o: ExponentialLR(o, 0.7)
    )
    raw = raw_loop(
        boring.regression(),
        boring.loader(),
        OPTIMIZERS["adamw"],
        after_epoch=lambda o: ExponentialLR(o, 0.7),
    )
    assert_equal(boring, mine, raw)
    assert mine[1].param_groups[0]["lr"] == pytest.approx(0.01 * 0.7**EPOCHS)


def test_a_scheduler_every_other_epoch(boring, make_trainer):
    _, optimizer = fitted(
        boring,
        make_trainer,
        OPTIMIZERS["sgd"],
        schedule=lambda o: {"scheduler": ExponentialLR(o, 0.5), "frequency": 2},
    )
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.5 ** (EPOCHS // 2))


def test_a_scheduler_that_watches_a_metric(boring, make_trainer):
    def plateau(optimizer):
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = OPTIMIZERS["sgd"](self.parameters())
        return {"optimizer": optimizer, "lr_scheduler": plateau(optimizer), "monitor": "loss"}

    module = boring.regression(
        training_step=training_step, configure_optimizers=configure_optimizers
    )
    mine = fitted(boring, make_trainer, None, module=module)
    raw = raw_loop(boring.regression(), boring.loader(), OPTIMIZERS["sgd"], after_epoch=plateau)
    assert_equal(boring, mine, raw)
    assert mine[1].param_groups[0]["lr"] < 0.05


def test_batches_without_a_length(boring, make_trainer):
    loader = boring.Stream(list(boring.loader()))
    mine = fitted(boring, make_trainer, OPTIMIZERS["sgd"], loader=loader, accumulate_grad_batches=3)
    raw = raw_loop(boring.regression(), boring.loader(), OPTIMIZERS["sgd"], accumulate=3)
    assert_equal(boring, mine, raw)
