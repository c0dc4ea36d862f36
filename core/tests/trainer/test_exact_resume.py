"""Wherever a run is saved, the resumed one does what the uninterrupted one did, in all that can be compared."""

from __future__ import annotations

import re

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR, ReduceLROnPlateau

from torchrelay import Callback, CombinedLoader
from torchrelay.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from torchrelay.checkpoint import rng

BATCHES = 6
"""Training batches of an epoch."""


class Rows:
    """A logger that keeps its rows."""

    save_dir = name = version = None

    def __init__(self):
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


class Save(Callback):
    """Saves the run in a hook, as soon as so many batches are done; notes how many rows there were."""

    def __init__(self, hook, batches, path):
        self.batches, self.path, self.saved = batches, path, None
        setattr(self, hook, self.save)

    def save(self, trainer, *args):
        if self.saved is None and trainer.progress.batches >= self.batches:
            self.saved = len(trainer.logger.rows)
            trainer.save_checkpoint(self.path)


class Keep(ModelCheckpoint):
    """A ModelCheckpoint that keeps, of each of its files, how many rows there were."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.rows = {}

    def on_resumable_point(self, trainer, pl_module, reason):
        before = set(self.kept)
        super().on_resumable_point(trainer, pl_module, reason)
        for path in set(self.kept) - before:
            self.rows[path] = (len(trainer.logger.rows), reason)


def noisy(boring, seed=0, **methods):
    """A module that draws random numbers in training and in validation, and logs in both."""

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss.detach().item(), on_epoch=True, on_step=False, reduce_fx="max")
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch) + 0.01 * torch.rand(()))

    def configure_optimizers(self):
        made = torch.optim.AdamW(self.parameters(), lr=0.01)
        watching = {
            "scheduler": ReduceLROnPlateau(made, patience=0),
            "monitor": "val_loss",
            "strict": False,
        }
        return [made], [{"scheduler": ExponentialLR(made, 0.9), "interval": "step"}, watching]

    hooks = {
        "training_step": training_step,
        "validation_step": validation_step,
        "configure_optimizers": configure_optimizers,
    }
    return boring.regression(seed=seed, dropout=0.3, **{**hooks, **methods})


def outcome(trainer, module):
    """What a run ends with; without places of files."""
    states = {key: unversioned(c.state_dict()) for key, c in keyed(trainer).items()}
    return {
        "weights": module.state_dict(),
        "optimizers": [trainer.strategy.optimizer_state(o) for o in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "random": {k: v for k, v in rng.capture().items() if k in ("torch", "python")},
        "progress": trainer.progress.state_dict(),
        "callbacks": states,
        "metrics": dict(trainer.callback_metrics),
    }


def unversioned(state):
    """A callback's state, with the names of files that another run has written before as they would be."""
    if isinstance(state, dict):
        return {unversioned(name): unversioned(value) for name, value in state.items()}
    return re.sub(r"-v\d+\.ckpt$", ".ckpt", state) if isinstance(state, str) else state


def keyed(trainer):
    return {callback.state_key: callback for callback in trainer.callbacks}


def assert_identical(one, other, where=""):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_identical(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_identical(a, b, f"{where}/{i}")
    else:
        assert repr(one) == repr(other), where  # NaN is no score


class Scene:
    """A run that can be made twice: whole, and from a checkpoint of it.

    Args:
        train: makes the training data.
        callbacks: makes callbacks; the keepers' folder is passed.
        module: further methods of the module.
        options: of the Trainer.
    """

    def __init__(self, boring, make_trainer, train=None, callbacks=None, module=None, **options):
        self.boring, self.make_trainer = boring, make_trainer
        self.train = train or (lambda: boring.loader(22, shuffle=True))
        self.callbacks = callbacks or list
        self.module = module or {}
        self.options = {"max_epochs": 3, "log_every_n_steps": 1, **options}

    def run(self, *more, seed=0, ckpt_path=None):
        torch.manual_seed(seed)
        module = noisy(self.boring, seed, **self.module)
        callbacks = [*self.callbacks(), *more]
        trainer = self.make_trainer(logger=Rows(), callbacks=callbacks, **self.options)
        trainer.fit(module, self.train(), self.boring.loader(8), ckpt_path=ckpt_path)
        return trainer, outcome(trainer, module)

    def check(self, path, rows, whole, expected):
        again, found = self.run(seed=7, ckpt_path=path)
        for name in found["callbacks"]:  # those that have saved the run were not given again
            assert_identical(expected["callbacks"][name], found["callbacks"][name], name)
        assert_identical({**expected, "callbacks": 0}, {**found, "callbacks": 0})
        assert_identical(whole.logger.rows[rows:], again.logger.rows)

    def check_saved_in(self, hook, batches, path):
        save = Save(hook, batches, path)
        whole, expected = self.run(save)
        assert save.saved is not None
        # A step's row is sent after the hooks that follow it, in the run that is saved.
        self.check(path, save.saved + (hook == "on_train_batch_end"), whole, expected)


@pytest.fixture
def scene(boring, make_trainer):
    return lambda **options: Scene(boring, make_trainer, **options)


def stopping():
    return [EarlyStopping("val_loss", patience=3)]


INTERVALS = {
    "end": {},
    "int": {"val_check_interval": 2},
    "float": {"val_check_interval": 0.5},
    "through": {"val_check_interval": 4, "check_val_every_n_epoch": None},
    "inside-window": {"val_check_interval": 3, "accumulate_grad_batches": 2},
    "epochs": {"check_val_every_n_epoch": 2},
}


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("batches", [2, 4, 6, 8])
def test_saved_after_a_batch(scene, tmp_path, interval, batches):
    options = INTERVALS[interval]
    scene(callbacks=stopping, **options).check_saved_in(
        "on_train_batch_end", batches, tmp_path / "a.ckpt"
    )


@pytest.mark.parametrize("interval", INTERVALS)
@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_start"])
@pytest.mark.parametrize("batches", [2, 6])
def test_saved_in_another_hook(scene, tmp_path, interval, hook, batches):
    if interval == "inside-window" and hook == "on_validation_end":
        pytest.skip("gradients of a window that is not finished are in no checkpoint")
    scene(callbacks=stopping, **INTERVALS[interval]).check_saved_in(
        hook, batches, tmp_path / "a.ckpt"
    )


KEEPERS = {
    "validations": {"monitor": "val_loss"},
    "epochs": {"save_on_train_epoch_end": True},
    "steps": {"every_n_train_steps": 2},
    "steps-by-metric": {"every_n_train_steps": 1, "monitor": "val_loss"},
    "second-epochs": {"every_n_epochs": 2, "monitor": "val_loss"},
}


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("interval", [name for name in INTERVALS if name != "epochs"])
def test_every_file_that_is_kept(scene, tmp_path, interval, keeper):
    made = []

    def callbacks():
        keep = Keep(tmp_path, filename="{epoch}-{step}", save_top_k=-1, **KEEPERS[keeper])
        made.append(keep)
        return [*stopping(), keep]

    it = scene(callbacks=callbacks, **INTERVALS[interval])
    whole, expected = it.run()
    files = {path: rows for path, (rows, _) in made[0].rows.items()}
    assert files
    for path, rows in files.items():
        it.check(path, rows, whole, expected)


@pytest.mark.parametrize("batches", [2, 5, 6, 8, 10])
def test_windows_that_change(scene, tmp_path, batches):
    def callbacks():
        return [GradientAccumulationScheduler({0: 1, 1: 2, 2: 3})]

    it = scene(callbacks=callbacks, max_epochs=4)
    it.check_saved_in("on_train_batch_end", batches, tmp_path / "a.ckpt")


def own_generator(boring):
    return boring.loader(22, shuffle=True, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_train_epoch_start"])
@pytest.mark.parametrize("batches", [3, 6, 9])
def test_a_loader_with_a_generator_of_its_own(boring, scene, tmp_path, hook, batches):
    it = scene(train=lambda: own_generator(boring), callbacks=stopping)
    it.check_saved_in(hook, batches, tmp_path / "a.ckpt")


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle", "sequential"])
@pytest.mark.parametrize("batches", [3, 5, 6, 8])
def test_several_loaders(boring, scene, tmp_path, mode, batches):
    def train():
        return CombinedLoader([boring.loader(14, shuffle=True), own_generator(boring)], mode)

    def training_step(self, batch, batch_idx):
        batch = (
            batch
            if mode == "sequential"
            else [torch.cat(part) for part in zip(*batch, strict=True)]
        )
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    it = scene(train=train, module={"training_step": training_step}, max_epochs=2)
    it.check_saved_in("on_train_batch_end", batches, tmp_path / "a.ckpt")


@pytest.mark.parametrize("batches", [3, 6, 9, 12])
def test_data_that_is_made_anew(boring, scene, tmp_path, batches):
    """Loaders that a module makes at random at the beginning of each epoch, and whose making draws random numbers."""

    def train_dataloader(self):
        return boring.loader(
            22,
            batch_size=4,
            shuffle=True,
            generator=torch.Generator().manual_seed(self.current_epoch + 1),
        )

    it = scene(
        train=lambda: None,
        module={"train_dataloader": train_dataloader},
        reload_dataloaders_every_n_epochs=1,
    )
    for hook in ("on_train_batch_end", "on_train_epoch_start"):
        it.check_saved_in(hook, batches, tmp_path / f"{hook}.ckpt")


def test_a_random_split_between_epochs(boring, scene, tmp_path):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(
            torch.utils.data.random_split(boring.samples(30), [22, 8])[0], batch_size=4
        )

    it = scene(
        train=lambda: None,
        module={"train_dataloader": train_dataloader},
        reload_dataloaders_every_n_epochs=1,
    )
    made = []

    def callbacks():
        made.append(Keep(tmp_path, filename="{epoch}", save_top_k=-1))
        return [made[-1]]

    it.callbacks = callbacks
    whole, expected = it.run()
    for path, (rows, _) in made[0].rows.items():
        it.check(path, rows, whole, expected)


def test_who_asked_to_stop_before_the_minimum_is_remembered(scene, tmp_path):
    class Once(Callback):
        def on_validation_end(self, trainer, pl_module):
            if trainer.progress.batches == 4:
                trainer.should_stop = True

    it = scene(callbacks=lambda: [Once()], min_epochs=2, max_epochs=4, val_check_interval=2)
    it.check_saved_in("on_train_batch_end", 5, tmp_path / "a.ckpt")
    assert it.run()[0].current_epoch == 2
