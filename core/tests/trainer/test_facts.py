"""What a Trainer tells of its run, before, in and after it."""

from __future__ import annotations

import pytest

from torchrelay import Callback
from torchrelay.errors import ConfigurationError


class Teller(Callback):
    """Notes what `read` finds at each moment named."""

    def __init__(self, *moments, read):
        self.told = {}
        for moment in moments:
            setattr(self, moment, lambda trainer, *_, at=moment: self.tell(at, read(trainer)))

    def tell(self, at, value):
        self.told.setdefault(at, value)


def test_state_by_lightnings_names(boring, make_trainer):
    teller = Teller(
        "on_sanity_check_end",
        "on_train_start",
        "on_validation_epoch_start",
        "on_train_epoch_end",
        "on_test_epoch_end",
        "on_predict_start",
        read=lambda trainer: tuple(trainer.state),
    )
    trainer = make_trainer(callbacks=[teller])
    assert trainer.state == (None, None)
    module = boring.regression()
    trainer.fit(module, boring.loader(), boring.loader())
    trainer.test(module, boring.loader(), verbose=False)
    trainer.predict(module, boring.loader())
    assert teller.told == {
        "on_sanity_check_end": ("fit", "sanity_check"),
        "on_train_start": ("fit", "train"),
        "on_validation_epoch_start": ("fit", "sanity_check"),
        "on_train_epoch_end": ("fit", "train"),
        "on_test_epoch_end": ("test", "test"),
        "on_predict_start": ("predict", "predict"),
    }
    assert trainer.state.fn == "predict"
    assert trainer.state.stage is None


def test_batches_and_updates(boring, make_trainer):
    def read(trainer):
        return (
            trainer.num_training_batches,
            trainer.num_val_batches,
            trainer.num_sanity_val_batches,
            trainer.estimated_stepping_batches,
            trainer.enable_validation,
            len(trainer.train_dataloader),
        )

    teller = Teller("on_train_start", read=read)
    trainer = make_trainer(callbacks=[teller], max_epochs=3, accumulate_grad_batches=2)
    trainer.fit(boring.regression(), boring.loader(), boring.loader(12))
    assert teller.told["on_train_start"] == (5, [3], [2], 9, True, 5)


def test_before_a_run(make_trainer):
    trainer = make_trainer()
    assert (trainer.model, trainer.datamodule, trainer.train_dataloader) == (None, None, None)
    assert trainer.num_val_batches == []
    assert (trainer.training, trainer.validating, trainer.testing, trainer.predicting) == (
        False,
    ) * 4
    with pytest.raises(ConfigurationError, match="lightning_module: nothing is running"):
        _ = trainer.lightning_module
    with pytest.raises(ConfigurationError, match="estimated_stepping_batches: nothing is running"):
        _ = trainer.estimated_stepping_batches


def test_callbacks_are_found_by_their_kind(make_trainer, tmp_path):
    from torchrelay.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar

    stopping, keeper, bar = EarlyStopping("loss"), ModelCheckpoint(tmp_path), ProgressBar()
    trainer = make_trainer(
        callbacks=[keeper, stopping, bar], enable_checkpointing=True, enable_progress_bar=True
    )
    assert trainer.checkpoint_callback is keeper
    assert trainer.early_stopping_callback is stopping
    assert trainer.progress_bar_callback is bar
    assert trainer.callbacks[-1] is keeper
