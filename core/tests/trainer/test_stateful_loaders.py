"""Loaders that keep their place: a resumed run goes on from it, and draws nothing twice."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from torchrelay import Callback, CombinedLoader
from torchrelay.callbacks import ModelCheckpoint
from torchrelay.checkpoint import rng

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # which torchdata calls
]

SAMPLES = 22


class Counted(Dataset):
    """Samples, to which reading adds noise; counts how many are read."""

    def __init__(self, samples):
        self.samples, self.read = samples, 0

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        self.read += 1
        x, y = self.samples[index]
        return x + 0.1 * torch.randn(x.shape), y


class Stream(IterableDataset):
    """Samples in an order that differs from epoch to epoch, which the data set counts itself."""

    def __init__(self, samples):
        self.samples, self.epoch, self.at = samples, 0, 0

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        step, first = (1, 0) if info is None else (info.num_workers, info.id)
        order = torch.randperm(
            len(self.samples), generator=torch.Generator().manual_seed(self.epoch)
        ).tolist()[first::step]
        while self.at < len(order):
            self.at += 1
            x, y = self.samples[order[self.at - 1]]
            yield (x + 0.1 * torch.randn(x.shape) if info is None else x), y
        self.epoch, self.at = self.epoch + 1, 0

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at}

    def load_state_dict(self, state):
        self.epoch, self.at = state["epoch"], state["at"]


class SizedStream(Stream):
    def __len__(self):
        return len(self.samples)


class Save(Callback):
    def __init__(self, batches, path):
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.progress.batches == self.batches:
            trainer.save_checkpoint(self.path)


def shuffled(boring, workers):
    data = Counted(boring.samples(SAMPLES)) if workers == 0 else boring.samples(SAMPLES)
    return StatefulDataLoader(data, batch_size=4, shuffle=True, num_workers=workers)


def own_generator(boring, workers):
    data, own = boring.samples(SAMPLES), torch.Generator().manual_seed(5)
    return StatefulDataLoader(data, 4, shuffle=True, num_workers=workers, generator=own)


def stream(boring, workers):
    return StatefulDataLoader(Stream(boring.samples(SAMPLES)), batch_size=4, num_workers=workers)


def sized_stream(boring, workers):
    data = SizedStream(boring.samples(SAMPLES))
    return StatefulDataLoader(data, batch_size=4, num_workers=workers)


def combined(mode):
    def make(boring, workers):
        short = StatefulDataLoader(boring.samples(10), 4, shuffle=True, num_workers=workers)
        return CombinedLoader([short, shuffled(boring, workers)], mode)

    return make


def combined_streams(boring, workers):
    short = StatefulDataLoader(Stream(boring.samples(10)), 4, num_workers=workers)
    return CombinedLoader([short, stream(boring, workers)], "max_size_cycle")


LOADERS = {
    "shuffled": shuffled,
    "own-generator": own_generator,
    "stream": stream,
    "sized-stream": sized_stream,
    "max_size_cycle": combined("max_size_cycle"),
    "min_size": combined("min_size"),
    "streams": combined_streams,
}


def step(self, batch, batch_idx):
    if isinstance(batch[0], (list, tuple)):
        batch = [torch.cat(part) for part in zip(*batch, strict=True)]
    loss = self.loss(batch)
    self.log("loss", loss)
    return loss


def fit(boring, make_trainer, make, workers, *, seed=0, ckpt_path=None, **options):
    torch.manual_seed(seed)
    module = boring.regression(seed=seed, dropout=0.3, training_step=step)
    loader = make(boring, workers)
    trainer = make_trainer(max_epochs=3, **options)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    state = {k: v for k, v in rng.capture().items() if k == "torch"}
    return boring.weights(module), state["torch"], trainer.progress.state_dict(), loader


def assert_same(one, other):
    assert one[2] == other[2]
    for name, weight in one[0].items():
        assert torch.equal(weight, other[0][name]), name
    assert torch.equal(one[1], other[1])


CASES = [
    *[
        (kind, 0, limit)
        for kind in LOADERS
        for limit in (None, 4)
        if (kind, limit) != ("sized-stream", 4)
    ],
    *[(kind, 2, None) for kind in ("shuffled", "stream", "streams")],
]


@pytest.mark.parametrize(("kind", "workers", "limit"), CASES)
def test_a_resumed_run_is_the_same(boring, make_trainer, tmp_path, kind, workers, limit):
    def run(callbacks=(), **options):
        more = {"limit_train_batches": limit, "callbacks": [*callbacks], **options}
        return fit(boring, make_trainer, LOADERS[kind], workers, **more)

    steps = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    epochs = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    whole = run([steps, epochs])
    number = whole[2]["global_step"]
    epoch = number // 3
    # Inside epochs, at the last batch of one, between two, and at the last batch of all.
    names = [f"step={at}" for at in (epoch - 2, epoch, epoch + 1, number - 1)]
    for name in [*(names if workers == 0 else names[2:3]), "epoch=1"]:
        path = tmp_path / f"{name}.ckpt"
        checkpoint = torch.load(path, weights_only=True)
        assert len(checkpoint["loaders"]["ranks"]) == 1
        assert_same(whole, run(seed=9, ckpt_path=path))


def test_nothing_is_read_twice(boring, make_trainer, tmp_path):
    path = tmp_path / "a.ckpt"
    fit(boring, make_trainer, shuffled, 0, callbacks=Save(4, path), max_steps=4)
    *_, loader = fit(boring, make_trainer, shuffled, 0, ckpt_path=path, max_steps=6)
    assert loader.dataset.read == SAMPLES - 16


def test_saving_draws_no_random_numbers(boring, make_trainer, tmp_path):
    class Often(Callback):
        def save(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "often.ckpt")

        on_fit_start = on_train_start = on_train_epoch_start = on_train_batch_end = save

    without = fit(boring, make_trainer, shuffled, 0)
    assert_same(without, fit(boring, make_trainer, shuffled, 0, callbacks=Often()))
