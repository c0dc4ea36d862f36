from __future__ import annotations

import pytest
import torch

from torchrelay.strategies import SingleDeviceStrategy

NAMES = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_the_hooks_change_the_batch_in_their_order(boring, make_trainer, stage, precision):
    seen, calls = [], []
    step = {"fit": "training_step", "validate": "validation_step"}.get(stage, f"{stage}_step")

    def hook(name):
        def change(self, batch, *rest):
            calls.append((name, *rest))
            return [tensor * 2 + 1 for tensor in batch]

        return change

    def look(self, batch, batch_idx):
        seen.append(batch[0])
        return self.loss(batch)

    module = boring.regression(**{name: hook(name) for name in NAMES}, **{step: look})
    trainer = make_trainer(
        precision=precision, limit_val_batches=None if stage == "validate" else 0
    )
    getattr(trainer, stage)(module, boring.loader(4))
    device = torch.device("cpu")
    assert calls == [(NAMES[0], 0), (NAMES[1], device, 0), (NAMES[2], 0)]
    x = boring.samples(4).tensors[0]
    expected = x
    for _ in NAMES:
        expected = expected * 2 + 1
    assert seen[0].dtype == (torch.float64 if precision == "64-true" else torch.float32)
    torch.testing.assert_close(seen[0], expected, check_dtype=False)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_module_inherits_changes_nothing(boring, name):
    batch = [torch.ones(2), {"a": torch.zeros(1)}]
    arguments = (torch.device("cpu"), 0) if name == NAMES[1] else (0,)
    result = getattr(boring.regression(), name)(batch, *arguments)
    assert torch.equal(result[0], batch[0])
    assert torch.equal(result[1]["a"], batch[1]["a"])


def test_nothing_is_called_where_nobody_overrides(boring, make_trainer):
    movers = []
    module = boring.regression(
        on_train_start=lambda self: movers.append(self.trainer.session.mover())
    )
    make_trainer().fit(module, boring.loader(4))
    assert movers == [None]


def test_a_strategys_own_move_comes_between(boring, make_trainer):
    calls = []

    class Moving(SingleDeviceStrategy):
        def batch_to_device(self, batch):
            calls.append("move")
            return super().batch_to_device(batch)

    def note(name):
        return lambda self, batch, idx: calls.append(name) or batch

    module = boring.regression(
        on_before_batch_transfer=note("before"), on_after_batch_transfer=note("after")
    )
    make_trainer(strategy=Moving()).test(module, boring.loader(4))
    assert calls == ["before", "move", "after"]


def test_metrics_are_weighted_by_the_batch_that_came_out(boring, make_trainer):
    def halve(self, batch, dataloader_idx):
        return [tensor[: len(tensor) // 2] for tensor in batch]

    def test_step(self, batch, batch_idx):
        self.log("index", float(batch_idx))

    module = boring.regression(on_after_batch_transfer=halve, test_step=test_step)
    batches = [list(boring.samples(n).tensors) for n in (2, 6)]
    assert make_trainer().test(module, batches) == [{"index": 0.75}]
