from __future__ import annotations

import os
from datetime import timedelta

import pytest
import torch

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import ConfigurationError

SCORES = [3.0, 1.0, 2.0, float("nan"), 0.5]


@pytest.fixture
def run(boring, make_trainer, tmp_path):
    """Fits a few epochs whose validations log the given scores."""

    def fit(keeper, scores=SCORES, resume=None, **options):
        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                self.log("score", scores[self.current_epoch])

        module = boring.regression(validation_step=validation_step)
        trainer = make_trainer(callbacks=keeper, **{"max_epochs": len(scores), **options})
        trainer.fit(module, boring.loader(8), boring.loader(4), ckpt_path=resume)
        return trainer, module

    return fit


def kept(path):
    return sorted(os.listdir(path)) if path.exists() else []


@pytest.mark.parametrize(
    ("options", "files", "best"),
    [
        ({"monitor": "score"}, [4], 4),
        ({"monitor": "score", "save_top_k": 2}, [1, 4], 4),
        ({"monitor": "score", "save_top_k": 4}, [0, 1, 2, 4], 4),
        ({"monitor": "score", "save_top_k": 2, "mode": "max"}, [0, 2], 0),
        ({"monitor": "score", "save_top_k": -1}, [0, 1, 2, 3, 4], 4),
        ({"monitor": "score", "save_top_k": 0}, [], None),
        ({"monitor": "score", "save_top_k": 2, "every_n_epochs": 2}, [1, 3], 1),
        ({}, [4], 4),
        ({"save_top_k": -1}, [0, 1, 2, 3, 4], 4),
        ({"every_n_epochs": 2}, [3], 3),
    ],
    ids=str,
)
def test_which_are_kept(run, tmp_path, options, files, best):
    keeper = ModelCheckpoint(dirpath=tmp_path / "kept", filename="{epoch}", **options)
    run(keeper)
    assert kept(tmp_path / "kept") == [f"epoch={epoch}.ckpt" for epoch in files]
    assert keeper.best_model_path == (
        "" if best is None else str(tmp_path / "kept" / f"epoch={best}.ckpt")
    )
    if "monitor" in options and best is not None:
        assert keeper.best_model_score == SCORES[best]
    else:
        assert keeper.best_model_score is None


@pytest.mark.parametrize("scores", [[float("nan"), 2.0, 3.0], [2.0, float("nan"), 3.0]], ids=str)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_is_the_worst(run, tmp_path, scores, mode):
    keeper = ModelCheckpoint(
        dirpath=tmp_path / "kept", filename="{epoch}", monitor="score", mode=mode
    )
    run(keeper, scores)
    assert keeper.best_model_score == (2.0 if mode == "min" else 3.0)


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (None, "epoch=0-step=2"),
        ("best", "best"),
        ("{epoch:03d}-{step}", "epoch=000-step=2"),
        ("run-{epoch}-{score:.2f}", "run-epoch=0-score=3.00"),
        ("{a/b:.1f}", "a_b=1.5"),
        ("deep/{epoch}", "deep/epoch=0"),
    ],
)
def test_names_of_files(boring, make_trainer, tmp_path, filename, name):
    def validation_step(self, batch, batch_idx):
        self.log_dict({"score": 3.0, "a/b": 1.5})

    keeper = ModelCheckpoint(dirpath=tmp_path / "kept", filename=filename)
    module = boring.regression(validation_step=validation_step)
    make_trainer(callbacks=keeper).fit(module, boring.loader(8), boring.loader(4))
    assert keeper.best_model_path == str(tmp_path / "kept" / f"{name}.ckpt")
    assert os.path.exists(keeper.best_model_path)


def test_the_folder_by_default(run, tmp_path):
    keeper = ModelCheckpoint()
    run(keeper, [1.0])
    assert keeper.best_model_path == str(tmp_path / "checkpoints" / "epoch=0-step=2.ckpt")


def test_one_name_is_overwritten_by_its_successor_and_numbered_beside_others(run, tmp_path):
    keeper = ModelCheckpoint(dirpath=tmp_path / "one", filename="model", monitor="score")
    run(keeper)
    assert kept(tmp_path / "one") == ["model.ckpt"]
    assert torch.load(keeper.best_model_path, weights_only=True)["epoch"] == 5
    latest = ModelCheckpoint(dirpath=tmp_path / "latest", filename="model")
    run(latest)
    assert kept(tmp_path / "latest") == ["model.ckpt"]
    three = ModelCheckpoint(
        dirpath=tmp_path / "three", filename="model", monitor="score", save_top_k=3
    )
    run(three)
    assert len(kept(tmp_path / "three")) == 3
    epochs = sorted(torch.load(path, weights_only=True)["epoch"] for path in three.kept)
    assert epochs == [2, 3, 5]


def test_the_files_of_an_earlier_run_are_left_alone(run, tmp_path):
    for _ in range(2):
        run(ModelCheckpoint(dirpath=tmp_path / "kept", filename="{epoch}"), [1.0])
    assert kept(tmp_path / "kept") == ["epoch=0-v1.ckpt", "epoch=0.ckpt"]


@pytest.mark.parametrize("top_k", [0, 1])
def test_the_last_is_kept_as_well(run, tmp_path, top_k):
    keeper = ModelCheckpoint(
        tmp_path / "kept", "{epoch}", "score", save_top_k=top_k, save_last=True
    )
    run(keeper, [1.0, 2.0, 3.0])
    assert kept(tmp_path / "kept") == ["epoch=0.ckpt"] * top_k + ["last.ckpt"]
    assert keeper.last_model_path == str(tmp_path / "kept" / "last.ckpt")
    assert torch.load(keeper.last_model_path, weights_only=True)["epoch"] == 3


def test_best_and_last_can_be_asked_for_by_name(run, boring, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", monitor="score", save_last=True)
    trainer, module = run(keeper, [1.0, 2.0])
    steps = []
    module.on_load_checkpoint = lambda checkpoint: steps.append(checkpoint["global_step"])
    for name in ("best", "last"):
        trainer.test(module, boring.loader(), ckpt_path=name)
    assert steps == [2, 4]


def test_the_best_survives_a_resume(run, tmp_path):
    first = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    run(first, [3.0, 1.0])
    second = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    trainer, _ = run(second, [9.0, 9.0, 2.0, 4.0], resume=first.last_model_path)
    assert trainer.global_step == 8
    assert (
        second.best_model_path == first.best_model_path == str(tmp_path / "kept" / "epoch=1.ckpt")
    )
    assert second.best_model_score == 1.0
    assert kept(tmp_path / "kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]


def test_files_that_are_gone_are_forgotten(run, tmp_path):
    first = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2, save_last=True)
    run(first, [1.0, 2.0])
    os.remove(tmp_path / "kept" / "epoch=0.ckpt")
    second = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=2)
    run(second, [9.0, 9.0, 3.0, 9.0], resume=first.last_model_path)
    assert kept(tmp_path / "kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]
    assert second.best_model_score == 2.0


def test_only_epochs_that_were_validated_are_judged(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_top_k=-1)
    run(keeper, [5.0, 4.0, 3.0, 2.0, 1.0], check_val_every_n_epoch=2)
    assert {os.path.basename(path): score for path, score in keeper.kept.items()} == {
        "epoch=1.ckpt": 4.0,
        "epoch=3.ckpt": 2.0,
    }


def test_a_run_that_stops_inside_an_epoch(run, tmp_path):
    judged = ModelCheckpoint(tmp_path / "judged", "{epoch}-{step}", "score", save_last=True)
    run(judged, [2.0, 1.0], max_steps=3)
    assert kept(tmp_path / "judged") == ["epoch=0-step=2.ckpt", "last.ckpt"]
    assert torch.load(judged.last_model_path, weights_only=True)["global_step"] == 3
    latest = ModelCheckpoint(tmp_path / "latest")
    run(latest, [2.0, 1.0], max_steps=3)
    assert kept(tmp_path / "latest") == ["epoch=1-step=3.ckpt"]


def test_fast_dev_run_keeps_nothing(run, tmp_path):
    run(ModelCheckpoint(tmp_path / "kept", save_last=True), fast_dev_run=True)
    assert kept(tmp_path / "kept") == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"monitor": "scor"},
            r"monitor='scor'\): no such metric has been logged; logged: loss, score",
        ),
        (
            {"filename": "{scor}"},
            r"filename='{scor}'\): 'scor' is neither epoch, step nor a logged metric",
        ),
        (
            {"filename": "{score:d}"},
            r"filename='{score:d}'\): {score:d} cannot be filled in: Unknown format code",
        ),
    ],
)
def test_a_metric_that_is_not_there(run, tmp_path, options, match):
    with pytest.raises(ConfigurationError, match=match):
        run(ModelCheckpoint(dirpath=tmp_path / "kept", **options))
    assert kept(tmp_path / "kept") == []


def steps_of(path):
    return [torch.load(path / name, weights_only=True)["global_step"] for name in kept(path)]


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_n_train_steps": 3, "save_top_k": -1}, [3, 6, 9]),
        ({"every_n_train_steps": 3}, [9]),
        ({"every_n_train_steps": 3, "every_n_epochs": 0, "save_top_k": -1}, [3, 6, 9]),
        ({"every_n_train_steps": 100}, []),
        ({"train_time_interval": timedelta(microseconds=1), "save_top_k": -1}, list(range(1, 11))),
        ({"train_time_interval": timedelta(days=1)}, []),
        ({"every_n_train_steps": 0, "every_n_epochs": 2, "save_top_k": -1}, [4, 8]),
    ],
    ids=str,
)
def test_when(run, tmp_path, options, steps):
    run(ModelCheckpoint(tmp_path / "kept", "{step:02d}", **options))
    assert steps_of(tmp_path / "kept") == steps


def test_steps_are_weight_updates_and_are_counted_on_after_a_resume(run, tmp_path):
    options = {"every_n_train_steps": 3, "save_top_k": -1}
    first = ModelCheckpoint(tmp_path / "one", "{step:02d}", **options)
    run(first, accumulate_grad_batches=2)
    assert steps_of(tmp_path / "one") == [3]
    second = ModelCheckpoint(tmp_path / "two", "{step:02d}", **options)
    run(second, resume=first.best_model_path)
    assert steps_of(tmp_path / "two") == [6]


def test_time_is_counted_from_the_last_checkpoint(run, tmp_path, monkeypatch):
    from torchrelay.callbacks import triggers

    clock = iter(range(100))  # one tick for the start and one for each update
    monkeypatch.setattr(triggers.time, "monotonic", lambda: float(next(clock)))
    run(
        ModelCheckpoint(
            tmp_path / "kept",
            "{step:02d}",
            save_top_k=-1,
            train_time_interval=timedelta(seconds=4),
        )
    )
    assert steps_of(tmp_path / "kept") == [4, 8]


def test_steps_judged_by_a_metric_of_validation_begin_with_the_first_validation(run, tmp_path):
    keeper = ModelCheckpoint(
        tmp_path / "kept", "{step}-{score}", "score", every_n_train_steps=1, save_top_k=-1
    )
    run(keeper, [7.0, 5.0])
    assert kept(tmp_path / "kept") == ["step=3-score=7.0.ckpt", "step=4-score=7.0.ckpt"]


def test_steps_judged_by_a_metric_of_training(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", "{step}", "loss", every_n_train_steps=1)
    trainer, _ = run(keeper)
    assert keeper.best_model_score < trainer.callback_metrics["loss"] + 1e-9
    assert len(kept(tmp_path / "kept")) == 1


def test_a_link_names_the_newest_file_that_is_kept(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", save_last="link", save_top_k=2)
    trainer, _ = run(keeper, [3.0, 1.0, 2.0, 9.0])
    assert kept(tmp_path / "kept") == ["epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"]
    last = tmp_path / "kept" / "last.ckpt"
    assert keeper.last_model_path == str(last)
    assert os.readlink(last) == "epoch=2.ckpt"
    assert keeper.find_last(trainer) == str(last)


def test_a_link_waits_for_what_is_written_in_the_background(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_last="link")
    run(keeper, [1.0, 1.0, 1.0], plugins="async")
    assert kept(tmp_path / "kept") == ["epoch=2.ckpt", "last.ckpt"]
    assert torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["epoch"] == 3


def test_where_nothing_is_kept_that_a_link_could_name_the_last_is_a_file(run, tmp_path):
    run(ModelCheckpoint(tmp_path / "kept", save_last="link", save_top_k=0), [1.0])
    assert kept(tmp_path / "kept") == ["last.ckpt"]
    assert not (tmp_path / "kept" / "last.ckpt").is_symlink()


def test_a_last_file_does_not_go_through_an_earlier_link(run, tmp_path):
    linked = ModelCheckpoint(tmp_path / "kept", "{epoch}", save_last="link")
    run(linked, [1.0])
    options = {"save_top_k": 0, "enable_version_counter": False}
    run(ModelCheckpoint(tmp_path / "kept", "{epoch}", save_last=True, **options), [1.0, 1.0])
    files = [tmp_path / "kept" / name for name in ("epoch=0.ckpt", "last.ckpt")]
    assert [torch.load(file, weights_only=True)["epoch"] for file in files] == [1, 2]


def test_the_last_of_another_run_is_left_alone_and_the_newest_is_found(run, tmp_path):
    for scores in ([1.0], [1.0, 1.0]):
        keeper = ModelCheckpoint(tmp_path / "kept", save_last=True, save_top_k=0)
        trainer, _ = run(keeper, scores)
    assert kept(tmp_path / "kept") == ["last-v1.ckpt", "last.ckpt"]
    found = ModelCheckpoint(tmp_path / "kept").find_last(trainer)
    assert found == str(tmp_path / "kept" / "last-v1.ckpt")
    assert ModelCheckpoint(tmp_path / "nowhere").find_last(trainer) == ""


def test_a_resume_into_another_folder_leaves_the_first_one_alone(run, tmp_path):
    first = ModelCheckpoint(tmp_path / "one", save_last=True, save_top_k=0)
    run(first, [1.0])
    second = ModelCheckpoint(tmp_path / "two", save_last=True, save_top_k=0)
    run(second, [1.0, 1.0], resume=first.last_model_path)
    assert kept(tmp_path / "one") == kept(tmp_path / "two") == ["last.ckpt"]


def test_names_without_a_version_are_overwritten(run, tmp_path):
    for scores in ([1.0], [1.0, 1.0]):
        keeper = ModelCheckpoint(
            tmp_path / "kept", "m", save_last=True, enable_version_counter=False
        )
        run(keeper, scores)
    assert kept(tmp_path / "kept") == ["last.ckpt", "m.ckpt"]
    assert steps_of(tmp_path / "kept") == [4, 4]


def test_weights_alone(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", save_weights_only=True, save_last=True)
    run(keeper, [1.0])
    for path in (keeper.best_model_path, keeper.last_model_path):
        saved = torch.load(path, weights_only=True)
        assert "state_dict" in saved
        assert not {"optimizer_states", "loops", "callbacks"} & set(saved)


def test_names_without_the_names_of_metrics(run, tmp_path):
    keeper = ModelCheckpoint(
        tmp_path / "kept", "e{epoch}-{score:.1f}", auto_insert_metric_name=False
    )
    run(keeper, [1.25])
    assert kept(tmp_path / "kept") == ["e0-1.2.ckpt"]


@pytest.mark.parametrize(
    ("at_end", "epochs"), [(True, [0, 1, 2, 3]), (False, [1, 3]), (None, [1, 3])]
)
def test_after_epochs_or_after_validations(run, tmp_path, at_end, epochs):
    keeper = ModelCheckpoint(
        tmp_path / "kept",
        "{epoch}",
        "loss",
        save_top_k=-1,
        save_on_train_epoch_end=at_end,
    )
    run(keeper, [1.0] * 4, check_val_every_n_epoch=2)
    assert kept(tmp_path / "kept") == [f"epoch={epoch}.ckpt" for epoch in epochs]


def test_it_says_what_it_keeps_if_asked_to(run, tmp_path, capsys):
    run(ModelCheckpoint(tmp_path / "quiet", "{epoch}", "score"), [1.0])
    assert capsys.readouterr().err == ""
    run(ModelCheckpoint(tmp_path / "kept", "{epoch}", "score", verbose=True), [1.0, 2.0])
    assert capsys.readouterr().err.splitlines() == [
        f"checkpoint (score=1): {tmp_path / 'kept' / 'epoch=0.ckpt'}",
        "checkpoint (score=2): not among those to keep",
    ]


def test_several_that_differ_in_when_have_states_of_their_own(run, tmp_path):
    keepers = [
        ModelCheckpoint(tmp_path / "epochs", "{step}"),
        ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=3),
        ModelCheckpoint(tmp_path / "time", "{step}", train_time_interval=timedelta(hours=1)),
        ModelCheckpoint(tmp_path / "two", "{step}", every_n_epochs=2),
    ]
    run(keepers)
    saved = torch.load(keepers[0].best_model_path, weights_only=True)["callbacks"]
    assert set(saved) == {keeper.state_key for keeper in keepers}
    assert len(saved) == 4
    assert saved[keepers[1].state_key]["best_model_path"] == keepers[1].best_model_path


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (
            {"every_n_train_steps": 5, "every_n_epochs": 1},
            r"every_n_train_steps=5, every_n_epochs=1\): one of them says when",
        ),
        ({"every_n_train_steps": -1}, r"every_n_train_steps=-1\): must be a whole number from 1"),
        ({"every_n_train_steps": 2.5}, r"every_n_train_steps=2.5\): must be a whole number"),
        ({"train_time_interval": 30}, r"train_time_interval=30\): must be a datetime.timedelta"),
        ({"train_time_interval": timedelta(0)}, r"must be a datetime.timedelta above zero"),
        ({"save_last": "copy"}, r"save_last='copy'\): must be True, False or 'link'"),
    ],
    ids=str,
)
def test_arguments_that_make_no_sense(options, match):
    with pytest.raises(ConfigurationError, match=match):
        ModelCheckpoint(**options)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "when",
    [{"every_n_train_steps": 2}, {"train_time_interval": timedelta(microseconds=1)}],
    ids=str,
)
def test_two_processes_follow_the_decisions_of_the_first(boring, make_trainer, tmp_path, when):
    pytest.importorskip("torchrelay_ddp")
    keeper = ModelCheckpoint(tmp_path / "kept", "{step}", save_last="link", save_top_k=1, **when)
    trainer = make_trainer(strategy="ddp_fork", devices=2, callbacks=keeper)
    trainer.fit(boring.regression(), boring.loader(32))
    assert kept(tmp_path / "kept") == ["last.ckpt", "step=4.ckpt"]
    assert os.readlink(tmp_path / "kept" / "last.ckpt") == "step=4.ckpt"
    assert keeper.best_model_path == str(tmp_path / "kept" / "step=4.ckpt")
