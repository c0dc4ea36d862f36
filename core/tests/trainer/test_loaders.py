"""Lists and dicts of loaders, loaders made anew, loaders that remember, in the real loop."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from torchrelay import CombinedLoader
from torchrelay.errors import ConfigurationError


class Seen:
    """The training batches that a module was given."""

    def __init__(self):
        self.batches = []

    def module(self, boring, **methods):
        def training_step(module, batch, batch_idx):
            self.batches.append(batch)
            return module.net(torch.ones(1, 4)).sum()

        return boring.regression(training_step=training_step, **methods)


def numbers(start, number):
    return DataLoader(torch.arange(start, start + number), batch_size=None)


@pytest.mark.parametrize("kind", ["list", "tuple", "dict", "combined"])
def test_training_on_several_loaders(boring, make_trainer, kind):
    short, long = numbers(0, 2), numbers(10, 3)
    given = {
        "list": [short, long],
        "tuple": (short, long),
        "dict": {"a": short, "b": long},
        "combined": CombinedLoader({"a": short, "b": long}, "min_size"),
    }[kind]
    seen = Seen()
    trainer = make_trainer()
    trainer.fit(seen.module(boring), given)
    pairs = [tuple(map(int, b.values() if isinstance(b, dict) else b)) for b in seen.batches]
    together = [(0, 10), (1, 11)] if kind == "combined" else [(0, 10), (1, 11), (0, 12)]
    assert pairs == together
    assert trainer.num_training_batches == len(together)


def test_a_list_of_batches_is_one_loader(boring, make_trainer):
    seen = Seen()
    make_trainer().fit(seen.module(boring), [torch.ones(1), torch.zeros(1)])
    assert [float(batch) for batch in seen.batches] == [1.0, 0.0]


def evaluated(boring):
    calls = []

    def step(module, batch, batch_idx, dataloader_idx=0):
        calls.append((dataloader_idx, batch_idx, int(batch)))
        module.log("sum", float(batch), reduce_fx="sum")

    def on_end(module):
        module.log("calls", float(len(calls)))

    methods = {f"{name}_step": step for name in ("validation", "test")}
    hooks = {f"on_{name}_epoch_end": on_end for name in ("validation", "test")}
    return boring.regression(**methods, **hooks), calls


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("kind", ["list", "dict", "sequential"])
def test_evaluating_several_loaders(boring, make_trainer, capsys, stage, kind):
    first, second = numbers(1, 2), numbers(10, 3)
    given = {
        "list": [first, second],
        "dict": {"a": first, "b": second},
        "sequential": CombinedLoader([first, second], "sequential"),
    }[kind]
    module, calls = evaluated(boring)
    trainer = make_trainer(**{f"limit_{'val' if stage == 'validate' else stage}_batches": 2})
    results = getattr(trainer, stage)(module, given)
    assert calls == [(0, 0, 1), (0, 1, 2), (1, 0, 10), (1, 1, 11)]
    assert results == [
        {"sum/dataloader_idx_0": 3.0, "calls": 4.0},
        {"sum/dataloader_idx_1": 21.0, "calls": 4.0},
    ]
    assert float(trainer.callback_metrics["sum/dataloader_idx_1"]) == 21.0
    assert "DataLoader 1" in capsys.readouterr().out


def test_loaders_read_together_are_one(boring, make_trainer):
    both = CombinedLoader([numbers(0, 2), numbers(10, 3)], "max_size")
    seen = []

    def validation_step(module, batch, batch_idx):
        seen.append(batch)
        module.log("n", 1.0)

    results = make_trainer().validate(boring.regression(validation_step=validation_step), both)
    assert (len(seen), seen[2][0], results) == (3, None, [{"n": 1.0}])


def test_hooks_learn_which_loader_a_batch_is_of(boring, make_trainer):
    seen = []

    def on_start(module, batch, batch_idx, dataloader_idx=0):
        seen.append(("start", dataloader_idx))

    def transfer(module, batch, device, dataloader_idx):
        seen.append(("move", dataloader_idx))
        return batch

    module, _ = evaluated(boring)
    type(module).on_test_batch_start = on_start
    type(module).transfer_batch_to_device = transfer
    make_trainer().test(module, [numbers(0, 1), numbers(0, 1)])
    assert seen == [("move", 0), ("start", 0), ("move", 1), ("start", 1)]


def test_a_step_that_cannot_be_told_the_loader_is_refused(boring, make_trainer):
    with pytest.raises(
        ConfigurationError, match=r"define test_step\(self, batch, batch_idx, dataloader_idx=0\)"
    ):
        make_trainer().test(boring.regression(), [boring.loader(), boring.loader()])


def test_predicting_several_loaders(boring, make_trainer):
    module = boring.regression(
        predict_step=lambda self, batch, batch_idx, dataloader_idx: int(batch)
    )
    assert make_trainer().predict(module, [numbers(0, 2), numbers(5, 1)]) == [[0, 1], [5]]
    assert make_trainer().predict(module, [numbers(0, 2)]) == [0, 1]
    assert make_trainer().predict(module, numbers(0, 2), return_predictions=False) is None


def test_each_batch_of_predictions_knows_its_samples(boring, make_trainer):
    seen = []

    def predict_step(module, batch, batch_idx):
        seen.append((batch.tolist(), module.trainer.current_batch_indices))

    data = torch.arange(10, 15)
    for workers in (0, 1):
        seen.clear()
        loader = DataLoader(data, batch_size=2, sampler=[4, 3, 2, 1, 0], num_workers=workers)
        trainer = make_trainer()
        trainer.predict(boring.regression(predict_step=predict_step), loader)
        assert seen == [([14, 13], [4, 3]), ([12, 11], [2, 1]), ([10], [0])]
        assert trainer.current_batch_indices is None


def test_loaders_are_asked_for_once_unless_it_is_asked_for(boring, make_trainer):
    asked = []

    def train_dataloader(module):
        asked.append(module.current_epoch)
        return boring.loader()

    for every, epochs in ((0, [0]), (1, [0, 1, 2, 3, 4]), (2, [0, 2, 4])):
        asked.clear()
        module = boring.regression(train_dataloader=train_dataloader)
        make_trainer(max_epochs=5, reload_dataloaders_every_n_epochs=every).fit(module)
        assert asked == epochs


def test_new_loaders_may_have_another_length(boring, make_trainer):
    seen = Seen()
    lengths = iter([2, 3, 1])
    module = seen.module(boring, train_dataloader=lambda self: numbers(0, next(lengths)))
    trainer = make_trainer(max_epochs=3, reload_dataloaders_every_n_epochs=1)
    trainer.fit(module)
    assert [int(batch) for batch in seen.batches] == [0, 1, 0, 1, 2, 0]
    assert trainer.num_training_batches == 1


def test_overfitting_reads_the_same_batches_in_order(boring, make_trainer):
    seen = Seen()
    loader = DataLoader(torch.arange(10), batch_size=1, shuffle=True)
    trainer = make_trainer(max_epochs=2, overfit_batches=3)
    trainer.fit(seen.module(boring), loader, boring.loader())
    assert [int(batch) for batch in seen.batches] == [0, 1, 2, 0, 1, 2]
    assert trainer.num_val_batches == [3]
    seen.batches.clear()
    make_trainer(overfit_batches=0.2).fit(seen.module(boring), loader)
    assert [int(batch) for batch in seen.batches] == [0, 1]


def test_updates_are_estimated_before_the_optimizer_is_made(boring, make_trainer):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.ones(1)

    estimated = []

    def configure_optimizers(module):
        estimated.append(module.trainer.estimated_stepping_batches)
        return torch.optim.SGD(module.parameters(), lr=0.1)

    def run(loader, **options):
        module = Seen().module(boring, configure_optimizers=configure_optimizers)
        trainer = make_trainer(**options)
        trainer.fit(module, loader)
        assert trainer.global_step == estimated[-1]

    run(numbers(0, 5), max_epochs=3)
    run(numbers(0, 5), max_epochs=3, accumulate_grad_batches=2)
    run(numbers(0, 5), max_epochs=3, max_steps=7)
    run(numbers(0, 5), max_epochs=3, limit_train_batches=2)
    run(numbers(0, 5), fast_dev_run=True)
    run(DataLoader(Endless(), batch_size=None), max_epochs=None, max_steps=4)
    assert estimated == [15, 9, 7, 6, 1, 4]


def test_no_loader_at_all_in_a_list(boring, make_trainer):
    trainer = make_trainer()
    trainer.fit(boring.regression(), boring.loader(), [])
    assert not trainer.enable_validation
    with pytest.raises(ConfigurationError, match="CombinedLoader got no data loader"):
        make_trainer().fit(boring.regression(), {})
