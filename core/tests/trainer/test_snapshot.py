"""A run that was saved and resumed is the run that was never interrupted."""

from __future__ import annotations

import random

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from torchrelay import Callback
from torchrelay.callbacks import ModelCheckpoint
from torchrelay.checkpoint import rng
from torchrelay.errors import CheckpointError

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def by_step(self, optimizer=OPTIMIZERS["adamw"]):
    made = optimizer(self.parameters())
    return [made], [
        {"scheduler": ExponentialLR(made, 0.9), "interval": "step"},
        ExponentialLR(made, 0.8),
    ]


def noisy(boring, **methods):
    """A module that draws random numbers in every step."""
    return boring.regression(dropout=0.3, configure_optimizers=by_step, **methods)


class Augmented(torch.utils.data.Dataset):
    """Samples to which reading adds noise of torch's and of Python's generator."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        x, y = self.samples[index]
        return x + 0.1 * torch.randn(x.shape) + random.gauss(0, 0.1), y


class SaveAt(Callback):
    """Saves a checkpoint after so many batches of the run."""

    def __init__(self, batches, path):
        self.batches, self.path = batches, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.progress.batches == self.batches:
            trainer.save_checkpoint(self.path)


def final_state(trainer, module):
    """Everything that a run ends with, comparable by `assert_close` at zero tolerance."""
    return {
        "weights": module.state_dict(),
        "optimizers": [trainer.strategy.optimizer_state(o) for o in trainer.optimizers],
        "schedulers": [s.state_dict() for s in trainer.strategy.schedulers],
        "random": {k: v for k, v in rng.capture().items() if k in ("torch", "python")},
        "progress": trainer.progress.state_dict(),
    }


def assert_identical(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


def loaders(boring, kind):
    if kind == "augmented":
        return torch.utils.data.DataLoader(
            Augmented(boring.samples(22)), batch_size=4, shuffle=True
        )
    if kind == "workers":
        data = Augmented(boring.samples(22))
        return torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, num_workers=1)
    shuffled = boring.loader(22, shuffle=True)
    return boring.Stream(shuffled) if kind == "without-length" else shuffled


@pytest.mark.parametrize(
    ("batches", "kind", "accumulate"),
    [
        *[(batches, "shuffled", 1) for batches in (1, 6, 8, 11, 12, 17)],
        (9, "shuffled", 3),
        (10, "shuffled", 4),
        (8, "augmented", 1),
        (8, "workers", 1),
        (8, "without-length", 1),
    ],
)
def test_resumed_in_the_middle_of_an_epoch(
    boring, make_trainer, tmp_path, batches, kind, accumulate
):
    # 6 batches an epoch, 3 epochs; 6 and 12 are the last batches of theirs.
    path = tmp_path / "middle.ckpt"
    options = {"max_epochs": 3, "accumulate_grad_batches": accumulate}
    whole = noisy(boring)
    trainer = make_trainer(callbacks=SaveAt(batches, path), **options)
    trainer.fit(whole, loaders(boring, kind), boring.loader(8))
    expected = final_state(trainer, whole)

    resumed = noisy(boring, seed=5)
    again = make_trainer(**options)
    again.fit(resumed, loaders(boring, kind), boring.loader(8), ckpt_path=path)
    assert_identical(expected, final_state(again, resumed))
    assert again.progress.batches == 18


@pytest.mark.parametrize("kind", ["shuffled", "augmented"])
def test_resumed_at_the_end_of_an_epoch(boring, make_trainer, tmp_path, kind):
    whole = noisy(boring)
    keeper = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    trainer = make_trainer(callbacks=keeper, max_epochs=3)
    trainer.fit(whole, loaders(boring, kind), boring.loader(8))
    expected = final_state(trainer, whole)
    for epoch in (0, 1):
        resumed = noisy(boring, seed=5)
        again = make_trainer(max_epochs=3)
        path = tmp_path / f"epoch={epoch}.ckpt"
        again.fit(resumed, loaders(boring, kind), boring.loader(8), ckpt_path=path)
        assert_identical(expected, final_state(again, resumed))


def test_resumed_where_max_steps_stopped(boring, make_trainer, tmp_path):
    whole = noisy(boring)
    trainer = make_trainer(max_epochs=3)
    trainer.fit(whole, loaders(boring, "shuffled"))
    expected = final_state(trainer, whole)
    first = make_trainer(max_steps=8, callbacks=ModelCheckpoint(dirpath=tmp_path), max_epochs=3)
    first.fit(noisy(boring), loaders(boring, "shuffled"))
    path = first.checkpoint_callback.best_model_path
    assert path == str(tmp_path / "epoch=1-step=8.ckpt")
    resumed = noisy(boring, seed=5)
    again = make_trainer(max_epochs=3)
    again.fit(resumed, loaders(boring, "shuffled"), ckpt_path=path)
    assert_identical(expected, final_state(again, resumed))


@pytest.fixture
def saved(boring, make_trainer, tmp_path):
    """The checkpoint of a run of one epoch."""
    trainer = make_trainer()
    trainer.fit(noisy(boring), boring.loader())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    return tmp_path / "saved.ckpt"


def test_what_a_checkpoint_holds_loads_without_pickled_code(saved):
    checkpoint = torch.load(saved, weights_only=True)
    assert set(checkpoint) == {
        "state_dict",
        "optimizer_states",
        "lr_schedulers",
        "epoch",
        "global_step",
        "loops",
        "callbacks",
        "hyper_parameters",
        "metrics",
        "precision",
        "rng",
        "torchrelay",
    }
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 5)
    names = {"net.0.weight", "net.0.bias", "net.3.weight", "net.3.bias"}
    assert set(checkpoint["optimizer_states"][0]["state"]) == names
    manifest = checkpoint["torchrelay"]
    assert (manifest["alias"], manifest["distribution"], manifest["world_size"]) == (
        "single_device",
        "torchrelay",
        1,
    )


def test_weights_alone_can_be_saved_and_evaluated_but_not_resumed(boring, make_trainer, tmp_path):
    trainer, module = make_trainer(), boring.regression()
    trainer.fit(module, boring.loader())
    trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert "optimizer_states" not in torch.load(tmp_path / "weights.ckpt", weights_only=True)
    fresh = boring.regression(seed=3)
    make_trainer().validate(fresh, boring.loader(), ckpt_path=tmp_path / "weights.ckpt")
    assert boring.difference(boring.weights(fresh), boring.weights(module)) == 0.0
    with pytest.raises(
        CheckpointError, match="holds weights alone, so training cannot go on from it; load them"
    ):
        make_trainer().fit(
            boring.regression(), boring.loader(), ckpt_path=tmp_path / "weights.ckpt"
        )


def two_groups(self):
    return torch.optim.AdamW([{"params": self.net[0].parameters()}, {"params": self.net[3].bias}])


@pytest.mark.parametrize(
    ("configure_optimizers", "match"),
    [
        (
            lambda self: None,
            "has 1 optimizers and configure_optimizers returns 0; resume with the same",
        ),
        (
            lambda self: OPTIMIZERS["adamw"](self.parameters()),
            "has 2 learning-rate schedulers and configure_optimizers returns 0",
        ),
        (
            lambda self: (
                [made := two_groups(self)],
                [ExponentialLR(made, 0.9), ExponentialLR(made, 0.8)],
            ),
            "optimizer state does not fit the optimizer: unexpected net.3.weight; give configure_optimizers",
        ),
    ],
    ids=["none", "schedulers", "parameters"],
)
def test_resuming_with_other_optimizers_is_refused(
    boring, make_trainer, saved, configure_optimizers, match
):
    module = boring.regression(configure_optimizers=configure_optimizers)
    with pytest.raises(CheckpointError, match=match):
        make_trainer(max_epochs=2).fit(module, boring.loader(), ckpt_path=saved)


def test_hooks_add_to_a_checkpoint_and_read_from_it(boring, make_trainer, tmp_path):
    class Counting(Callback):
        epochs = 0

        def on_train_epoch_end(self, trainer, pl_module):
            self.epochs += 1

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, state_dict):
            self.epochs = state_dict["epochs"]

    read = []
    hooks = {
        "on_save_checkpoint": lambda self, checkpoint: checkpoint.update(mine=[1, 2]),
        "on_load_checkpoint": lambda self, checkpoint: read.append(checkpoint["mine"]),
    }
    trainer = make_trainer(callbacks=Counting())
    trainer.fit(boring.regression(**hooks), boring.loader())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    counting = Counting()
    again = make_trainer(callbacks=counting, max_epochs=3)
    again.fit(boring.regression(**hooks), boring.loader(), ckpt_path=tmp_path / "one.ckpt")
    assert (read, counting.epochs) == ([[1, 2]], 3)


def test_saving_needs_a_run(make_trainer, tmp_path):
    from torchrelay.errors import ConfigurationError

    with pytest.raises(
        ConfigurationError,
        match=r"save_checkpoint needs a run in this process.*: call it in a hook, or after fit",
    ):
        make_trainer().save_checkpoint(tmp_path / "none.ckpt")


def test_an_epoch_of_another_length_is_not_entered_in_its_middle(boring, make_trainer, tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "middle.ckpt")

    make_trainer(max_epochs=1, callbacks=Saves()).fit(
        boring.regression(), boring.loader(batch_size=4)
    )
    with pytest.raises(
        CheckpointError, match=r"inside an epoch of \d+ batches, and an epoch has \d+ now; resume"
    ):
        make_trainer(max_epochs=1).fit(
            boring.regression(), boring.loader(batch_size=5), ckpt_path=tmp_path / "middle.ckpt"
        )


def test_a_checkpoint_may_be_saved_after_fit(boring, make_trainer, tmp_path):
    trainer = make_trainer(max_epochs=1)
    module = boring.regression()
    trainer.fit(module, boring.loader())
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    again = boring.regression(seed=1)
    make_trainer(max_epochs=1).fit(again, boring.loader(), ckpt_path=tmp_path / "after.ckpt")
    assert boring.difference(boring.weights(again), boring.weights(module)) == 0.0


def test_two_callbacks_of_one_key_keep_their_own_states(boring, make_trainer, tmp_path):
    def keepers():
        return [ModelCheckpoint(tmp_path / name, monitor="val_loss") for name in ("one", "other")]

    make_trainer(max_epochs=1, callbacks=(first := keepers())).fit(
        boring.regression(), boring.loader(), boring.loader()
    )
    again = keepers()
    make_trainer(max_epochs=1, callbacks=again).fit(
        boring.regression(), boring.loader(), boring.loader(), ckpt_path=first[1].best_model_path
    )
    assert [c.best_model_path for c in again] == [c.best_model_path for c in first]
    assert again[0].best_model_path != again[1].best_model_path


def test_a_module_may_make_its_layers_as_a_checkpoint_has_them(boring, make_trainer, tmp_path):
    """Before its optimizers are built, which would otherwise hold the parameters of layers that are gone."""

    def resize(self, checkpoint):
        width = checkpoint["state_dict"]["net.0.weight"].shape[0]
        self.net[0], self.net[3] = torch.nn.Linear(4, width), torch.nn.Linear(width, 1)

    wide = boring.regression()
    resize(wide, {"state_dict": {"net.0.weight": torch.zeros(12, 4)}})
    first = make_trainer()
    first.fit(wide, boring.loader())
    first.save_checkpoint(tmp_path / "wide.ckpt")

    module = boring.regression(on_load_checkpoint=resize)
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, boring.loader(), ckpt_path=tmp_path / "wide.ckpt")
    assert module.net[0].out_features == 12
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}
    assert not torch.equal(module.net[0].weight, wide.net[0].weight)


def test_a_checkpoint_between_two_updates_is_warned_of_once(boring, make_trainer, tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.save_checkpoint(tmp_path / "middle.ckpt")
            trainer.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)

    trainer = make_trainer(callbacks=Saves(), accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match=r"after batch 1 of windows of 2 .*; save where") as caught:
        trainer.fit(boring.regression(), boring.loader())
    assert len(caught) == 1
    make_trainer(callbacks=Saves()).fit(boring.regression(), boring.loader())
