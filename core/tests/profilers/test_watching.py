from __future__ import annotations

from collections import Counter

import pytest

from torchrelay import Callback, LightningDataModule
from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import ConfigurationError
from torchrelay.profilers import PassThroughProfiler, Profiler, SimpleProfiler
from torchrelay.profilers.watching import watched, watched_items


class Noting(Profiler):
    """Notes the actions as they come, and what it is told of the run."""

    def __init__(self):
        super().__init__()
        self.actions, self.run = [], []

    def start(self, action_name):
        self.actions.append(action_name)

    def stop(self, action_name):
        self.actions.append(f"/{action_name}")

    def setup(self, stage, local_rank=None, log_dir=None):
        self.run.append(("setup", stage, local_rank, self.global_rank, log_dir))

    def describe(self):
        self.run.append("describe")

    def teardown(self, stage):
        self.run.append(("teardown", stage))

    @property
    def counts(self):
        return Counter(action for action in self.actions if not action.startswith("/"))


class Listening(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        pass


def on_before_zero_grad(self, optimizer):
    pass


def on_after_batch_transfer(self, batch, dataloader_idx):
    return batch


STRATEGY = "[Strategy]SingleDeviceStrategy."


def test_the_actions_of_a_fit(boring, make_trainer, tmp_path):
    profiler = Noting()
    module = boring.regression(
        on_before_zero_grad=on_before_zero_grad, on_after_batch_transfer=on_after_batch_transfer
    )
    trainer = make_trainer(
        profiler=profiler,
        callbacks=[Listening(), ModelCheckpoint(tmp_path, every_n_epochs=1)],
        max_epochs=2,
        gradient_clip_val=1.0,
        num_sanity_val_steps=1,
    )
    trainer.fit(module, boring.loader(20), boring.loader(8))
    found = profiler.counts
    expected = {
        "run_training_epoch": 2,
        "run_training_batch": 10,
        "train_dataloader_next": 12,
        "batch_to_device": 10 + 4 + 1,
        "save_checkpoint": 2,
        "[Callback]Listening.on_train_batch_end": 10,
        "[LightningModule]Regression.on_before_zero_grad": 10,
        "[LightningModule]Regression.on_after_batch_transfer": 15,
        f"{STRATEGY}setup": 1,
        f"{STRATEGY}save_checkpoint": 2,
        f"{STRATEGY}training_step": 10,
        f"{STRATEGY}backward": 10,
        f"{STRATEGY}finalize_gradients": 10,
        f"{STRATEGY}clip_gradients": 10,
        f"{STRATEGY}optimizer_step": 10,
        f"{STRATEGY}zero_grad": 10,
        f"{STRATEGY}validation_step": 5,
    }
    assert {name: found[name] for name in expected} == expected
    others = set(found) - set(expected) - {"val_dataloader_next"}
    assert all(name.startswith("[Callback]ModelCheckpoint.") for name in others), others
    assert profiler.run == [
        ("setup", "fit", 0, 0, str(tmp_path)),
        "describe",
        ("teardown", "fit"),
    ]


def test_what_lies_within_what(boring, make_trainer):
    profiler = Noting()
    make_trainer(profiler=profiler).fit(boring.regression(), boring.loader(4))
    path, deepest = [], {}
    for action in profiler.actions:
        if action.startswith("/"):
            assert path.pop() == action[1:]
        else:
            deepest[action] = tuple(path)
            path.append(action)
    assert path == []
    batch = ("run_training_epoch", "run_training_batch")
    update = (*batch, f"{STRATEGY}optimizer_step")
    assert deepest["run_training_batch"] == batch[:1]
    assert deepest[f"{STRATEGY}optimizer_step"] == batch
    assert deepest[f"{STRATEGY}training_step"] == deepest[f"{STRATEGY}backward"] == update


@pytest.mark.parametrize(
    ("stage", "short"), [("validate", "val"), ("test", "test"), ("predict", "predict")]
)
def test_the_actions_of_the_other_stages(boring, make_trainer, stage, short):
    profiler = Noting()
    getattr(make_trainer(profiler=profiler), stage)(boring.regression(), boring.loader(12))
    step = {"validate": "validation"}.get(stage, stage)
    assert profiler.counts[f"{STRATEGY}{step}_step"] == 3
    assert profiler.counts[f"{short}_dataloader_next"] == 4
    assert profiler.run[0][:2] == ("setup", stage)


def test_a_data_modules_hooks(boring, make_trainer):
    class Data(LightningDataModule):
        def train_dataloader(self):
            return boring.loader(8)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch

    profiler = Noting()
    make_trainer(profiler=profiler).fit(boring.regression(), datamodule=Data())
    assert profiler.counts["[LightningDataModule]Data.on_before_batch_transfer"] == 2


def test_measuring_changes_no_result(boring, make_trainer):
    results = []
    for profiler in (None, "simple", "advanced", Noting()):
        module = boring.regression(dropout=0.5)
        make_trainer(profiler=profiler, max_epochs=2).fit(module, boring.loader(shuffle=True))
        results.append(boring.weights(module))
    assert all(boring.difference(results[0], result) == 0 for result in results[1:])


def test_the_modules_own_actions(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        with self.trainer.profiler.profile("mine"):
            return self.loss(batch)

    module = boring.regression(training_step=training_step)
    profiler = SimpleProfiler()
    make_trainer(profiler=profiler).fit(module, boring.loader())
    assert profiler.recorded["mine"].calls == 5
    for nothing in (None, PassThroughProfiler()):
        make_trainer(profiler=nothing).fit(module, boring.loader())


def test_the_strategy_is_itself_again(boring, make_trainer):
    for fails in (False, True):

        def training_step(self, batch, batch_idx, fails=fails):
            assert "training_step" in vars(self.trainer.strategy)
            if fails:
                raise KeyError
            return self.loss(batch)

        profiler = Noting()
        trainer = make_trainer(profiler=profiler)
        module = boring.regression(training_step=training_step)
        if fails:
            with pytest.raises(KeyError):
                trainer.fit(module, boring.loader())
        else:
            trainer.fit(module, boring.loader())
        assert not {"training_step", "evaluation_step"} & set(vars(trainer.strategy))
        assert ("describe" in profiler.run) != fails
        assert profiler.run[-1] == ("teardown", "fit")


def test_a_method_that_was_replaced_before_stays_so(boring, make_trainer):
    profiler = Noting()
    trainer = make_trainer(profiler=profiler)
    usual, calls = trainer.strategy.backward, []
    mine = trainer.strategy.backward = lambda loss: (calls.append(1), usual(loss))
    trainer.fit(boring.regression(), boring.loader())
    assert len(calls) == profiler.counts[f"{STRATEGY}backward"] == 5
    assert trainer.strategy.backward is mine


def test_without_a_profiler_nothing_is_in_between(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        trainer = self.trainer
        seen.append(set(vars(trainer.strategy)))
        seen.append(trainer.session.own("configure_optimizers"))
        return self.loss(batch)

    module = boring.regression(training_step=training_step, configure_optimizers=lambda self: None)
    make_trainer().fit(module, boring.loader(4))
    assert not {"training_step", "backward", "evaluation_step"} & seen[0]
    assert seen[1] == module.configure_optimizers
    function, items = (lambda: 3), iter("ab")
    assert watched(None, "a", function) is function
    assert watched_items(None, "a", items) is items


def test_a_bad_folder_ends_the_run_before_it_begins(boring, make_trainer, tmp_path):
    (tmp_path / "file").touch()
    trained = []
    module = boring.regression(setup=lambda self, stage: trained.append(stage))
    trainer = make_trainer(profiler=SimpleProfiler(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match="another dirpath"):
        trainer.fit(module, boring.loader())
    assert not trained


def test_an_unknown_name_is_refused_when_the_trainer_is_made(make_trainer):
    with pytest.raises(ConfigurationError, match="did you mean 'advanced'"):
        make_trainer(profiler="advance")


def test_items_that_are_left_early_are_closed():
    closed = []

    def items():
        try:
            yield from "abc"
        finally:
            closed.append(True)

    profiler = Noting()
    measured = watched_items(profiler, "next", items())
    assert next(measured) == "a"
    measured.close()
    assert closed
    assert list(watched_items(profiler, "next", iter("ab"))) == ["a", "b"]
    assert profiler.counts["next"] == 1 + 3


def test_an_error_of_the_items_passes():
    def items():
        yield 1
        raise KeyError("mine")

    measured = watched_items(SimpleProfiler(), "next", items())
    assert next(measured) == 1
    with pytest.raises(KeyError, match="mine"):
        next(measured)
