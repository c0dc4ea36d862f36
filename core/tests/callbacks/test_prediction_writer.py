from __future__ import annotations

import pytest
import torch

from torchrelay.callbacks import BasePredictionWriter
from torchrelay.errors import ConfigurationError


class Writer(BasePredictionWriter):
    def __init__(self, *interval):
        super().__init__(*interval)
        self.batches, self.epochs = [], []
        self.places, self.all_places = [], []

    def write_on_batch_end(self, trainer, pl_module, prediction, indices, batch, i, loader):
        self.batches.append((i, loader, prediction, batch))
        self.places.append(indices)

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        self.epochs.append(list(predictions))
        self.all_places.append(batch_indices)


@pytest.mark.parametrize(
    ("interval", "batches", "epochs"),
    [((), 3, 0), (("batch",), 3, 0), (("epoch",), 0, 1), (("batch_and_epoch",), 3, 1)],
    ids=str,
)
def test_what_it_is_given(boring, make_trainer, interval, batches, epochs):
    writer = Writer(*interval)
    trainer = make_trainer(callbacks=writer)
    for _ in range(2):
        writer.batches, writer.epochs = [], []
        returned = trainer.predict(boring.regression(), boring.loader(12))
        assert (len(writer.batches), len(writer.epochs)) == (batches, epochs)
        for i, (number, loader, prediction, batch) in enumerate(writer.batches):
            assert (number, loader) == (i, 0)
            assert torch.equal(prediction, returned[i])
            assert torch.equal(batch[0], boring.samples(12)[4 * i : 4 * i + 4][0])
        for predictions in writer.epochs:
            assert all(map(torch.equal, predictions, returned))


def test_places_in_the_data_set(boring, make_trainer):
    writer = Writer("batch_and_epoch")
    make_trainer(callbacks=writer).predict(boring.regression(), boring.loader(10))
    places = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert writer.places == places
    assert writer.all_places == [[places]]  # a list for each data loader, also for the only one


def test_places_that_are_not_known(boring, make_trainer):
    writer = Writer("batch_and_epoch")
    stream = boring.Stream(list(boring.loader(8)))
    make_trainer(callbacks=writer).predict(boring.regression(), stream)
    assert writer.places == [None, None]
    assert writer.all_places == [None]


def test_several_loaders(boring, make_trainer):
    writer = Writer("batch_and_epoch")
    module = boring.regression(
        predict_step=lambda self, batch, batch_idx, dataloader_idx=0: (dataloader_idx, batch_idx)
    )
    make_trainer(callbacks=writer).predict(module, [boring.loader(8), boring.loader(4)])
    assert writer.epochs == [[[(0, 0), (0, 1)], [(1, 0)]]]
    assert writer.all_places == [[[[0, 1, 2, 3], [4, 5, 6, 7]], [[0, 1, 2, 3]]]]


@pytest.mark.timeout(120)
def test_places_on_two_ranks(boring, make_trainer, tmp_path):
    pytest.importorskip("torchrelay_ddp")

    class Keeps(BasePredictionWriter):
        def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
            torch.save(batch_indices, tmp_path / f"{trainer.global_rank}.pt")

    trainer = make_trainer(strategy="ddp_fork", devices=2, callbacks=Keeps("epoch"))
    trainer.predict(boring.regression(), boring.loader(11, batch_size=2))
    kept = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert sorted(i for (loader,) in kept for batch in loader for i in batch) == list(range(11))


def test_an_interval_that_makes_no_sense():
    with pytest.raises(
        ConfigurationError, match=r"Writer\(write_interval='step'\): must be 'batch'"
    ):
        Writer("step")


@pytest.mark.parametrize(
    ("interval", "name"), [("batch", "write_on_batch_end"), ("epoch", "write_on_epoch_end")]
)
def test_a_method_that_is_missing(interval, name):
    class Nothing(BasePredictionWriter):
        pass

    with pytest.raises(ConfigurationError, match=f"Nothing.* has no {name}; define it"):
        Nothing(interval)
