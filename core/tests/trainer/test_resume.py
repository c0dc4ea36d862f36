from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.resume import resolve_path


def touch(path, when):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return str(path)


def test_a_path_or_a_url_is_taken_as_it_is(make_trainer, tmp_path):
    trainer = make_trainer()
    assert resolve_path(trainer, None) is None
    assert resolve_path(trainer, tmp_path / "a.ckpt") == str(tmp_path / "a.ckpt")
    assert resolve_path(trainer, "memory://a.ckpt") == "memory://a.ckpt"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("best", 'ckpt_path="best": no ModelCheckpoint of this Trainer has kept a best checkpoint'),
        ("last", 'ckpt_path="last": no such checkpoint in {root}/checkpoints; keep one with'),
        ("hpc", 'ckpt_path="hpc": no hpc_ckpt_N.ckpt in {root}; such a file'),
        ("registry:me/net", "ckpt_path='registry:me/net': there is no model registry here"),
        (3, 'ckpt_path=3 must be a path, "best", "last", "hpc" or None'),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_what_is_not_there_is_refused_with_where_it_was_looked_for(
    make_trainer, tmp_path, name, text, stage
):
    trainer = make_trainer(callbacks=ModelCheckpoint(), enable_checkpointing=True)
    with pytest.raises(ConfigurationError) as caught:
        resolve_path(trainer, name, stage)
    assert str(caught.value).startswith(text.format(root=tmp_path))
    assert "\n" not in str(caught.value)


def test_last_is_the_newest_of_several_callbacks_and_versions(make_trainer, tmp_path):
    logger = SimpleNamespace(save_dir=str(tmp_path / "logs"), name="runs")
    logger.log_metrics = lambda metrics, step: None
    keepers = [ModelCheckpoint(), ModelCheckpoint(dirpath=tmp_path / "own", mode="max")]
    trainer = make_trainer(callbacks=keepers, enable_checkpointing=True, logger=logger)
    old = touch(tmp_path / "checkpoints" / "last.ckpt", 100)
    assert resolve_path(trainer, "last") == old
    touch(tmp_path / "logs" / "runs" / "version_10" / "checkpoints" / "last.ckpt", 150)
    nine = touch(tmp_path / "logs" / "runs" / "version_9" / "checkpoints" / "last-v1.ckpt", 200)
    assert resolve_path(trainer, "last", "test") == nine
    own = touch(tmp_path / "own" / "last.ckpt", 300)
    touch(tmp_path / "own" / "lasting.ckpt", 400)
    assert resolve_path(trainer, "last") == own


def test_hpc_is_the_highest_number(make_trainer, tmp_path):
    for number in (2, 10, 9):
        touch(tmp_path / f"hpc_ckpt_{number}.ckpt", 100)
    assert resolve_path(make_trainer(), "hpc") == str(tmp_path / "hpc_ckpt_10.ckpt")


def test_last_in_a_fresh_trainer_and_best_in_the_same(boring, make_trainer, tmp_path):
    def make(epochs):
        keep = ModelCheckpoint(save_last=True, dirpath=tmp_path / "kept")
        return make_trainer(callbacks=keep, enable_checkpointing=True, max_epochs=epochs)

    trainer, module = make(1), boring.regression()
    trainer.fit(module, boring.loader())
    found = trainer.test(module, boring.loader(), ckpt_path="best")
    assert found == trainer.test(module, boring.loader(), ckpt_path="last")
    whole, other = boring.regression(), boring.regression(seed=4)
    make_trainer(max_epochs=2).fit(whole, boring.loader())
    make(2).fit(other, boring.loader(), ckpt_path="last")
    assert boring.difference(boring.weights(whole), boring.weights(other)) == 0


def test_a_checkpoint_beyond_max_epochs_is_refused(boring, make_trainer, tmp_path, capsys):
    trainer = make_trainer(max_epochs=3)
    trainer.fit(boring.regression(), boring.loader())
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    with pytest.raises(
        ConfigurationError, match=r"has 3 epochs, but max_epochs=2; give max_epochs=4"
    ):
        make_trainer(max_epochs=2).fit(
            boring.regression(), boring.loader(), ckpt_path=tmp_path / "three.ckpt"
        )
    capsys.readouterr()
    again = make_trainer(max_epochs=3)
    again.fit(boring.regression(), boring.loader(), ckpt_path=tmp_path / "three.ckpt")
    assert again.global_step == 15
    assert "nothing is left to train: the checkpoint has 3 epochs" in capsys.readouterr().err
