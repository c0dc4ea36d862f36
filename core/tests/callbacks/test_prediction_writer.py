from __future__ import annotations

import pytest
import torch

from torchrelay.callbacks import BasePredictionWriter
from torchrelay.errors import ConfigurationError


class Writer(BasePredictionWriter):
    def __init__(self, *interval):
        super().__init__(*interval)
        self.batches, self.epochs = [], []

    def write_on_batch_end(self, trainer, pl_module, prediction, indices, batch, i, loader):
        self.batches.append((i, loader, prediction, batch))

    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        self.epochs.append(list(predictions))


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
