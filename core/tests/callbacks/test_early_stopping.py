from __future__ import annotations

import pytest
import torch

from torchrelay.callbacks import EarlyStopping, EarlyStoppingReason, ModelCheckpoint
from torchrelay.errors import ConfigurationError

NAN, INFINITE = float("nan"), float("inf")


@pytest.fixture
def run(boring, make_trainer):
    """Fits epochs whose validations log the given scores; the number of epochs that were run."""

    def fit(stopper, scores, resume=None, callbacks=(), **options):
        def validation_step(self, batch, batch_idx):
            self.log("score", scores[self.current_epoch])

        module = boring.regression(validation_step=validation_step)
        trainer = make_trainer(
            callbacks=[stopper, *callbacks], **{"max_epochs": len(scores), **options}
        )
        trainer.fit(module, boring.loader(8), boring.loader(4), ckpt_path=resume)
        return trainer.current_epoch

    return fit


@pytest.mark.parametrize(
    ("options", "scores", "epochs"),
    [
        ({"patience": 1}, [3, 2, 2, 1], 3),
        ({"patience": 2}, [3, 2, 2, 1, 1, 1, 0], 6),
        ({"patience": 3}, [3, 2, 1, 0], 4),
        ({"patience": 1, "mode": "max"}, [1, 2, 2, 3], 3),
        ({"patience": 1, "min_delta": 0.5}, [3, 2.6, 1], 2),
        ({"patience": 1, "min_delta": -0.5}, [3, 2.6, 1], 2),
        ({"patience": 9}, [3, NAN, 1], 2),
        ({"patience": 9}, [3, INFINITE, 1], 2),
        ({"patience": 1, "check_finite": False}, [3, NAN, 1], 2),
        ({"patience": 2, "check_finite": False}, [3, NAN, 1], 3),
        ({"stopping_threshold": 2}, [3, 2, 1, 0], 3),
        ({"stopping_threshold": 2, "mode": "max"}, [1, 2, 3, 4], 3),
        ({"divergence_threshold": 4, "patience": 9}, [3, 4, 5, 6], 3),
        ({"divergence_threshold": 2, "patience": 9, "mode": "max"}, [3, 2, 1, 0], 3),
    ],
    ids=str,
)
def test_when_it_stops(run, options, scores, epochs):
    stopper = EarlyStopping("score", **options)
    assert run(stopper, scores) == epochs
    assert stopper.stopped_epoch == (epochs if epochs < len(scores) else 0)


def test_trying_validation_first_does_not_count(run):
    stopper = EarlyStopping("score", patience=1)
    assert run(stopper, [1, 0.5], num_sanity_val_steps=-1) == 2
    assert (stopper.best_score, stopper.wait_count, stopper.stopped_epoch) == (0.5, 0, 0)


def test_only_validations_count(run):
    assert (
        run(EarlyStopping("score", patience=1), [1, 1, 2, 2, 3, 3, 3], check_val_every_n_epoch=2)
        == 4
    )


def test_min_epochs_comes_first(run):
    assert run(EarlyStopping("score", patience=1), [1, 2, 3, 4, 5], min_epochs=4) == 4


def test_it_goes_on_counting_after_a_resume(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path, save_last=True)
    run(EarlyStopping("score", patience=3), [1, 2], callbacks=[keeper])
    resumed = EarlyStopping("score", patience=3)
    assert run(resumed, [1, 2, 2, 2, 2], resume=tmp_path / "last.ckpt") == 4
    assert (resumed.best_score, resumed.wait_count, resumed.stopped_epoch) == (1.0, 3, 4)


def test_a_metric_that_is_not_there(run):
    with pytest.raises(
        ConfigurationError,
        match=r"monitor='scor'\): no such metric has been logged; logged: loss, sco",
    ):
        run(EarlyStopping("scor"), [1, 2])
    assert run(EarlyStopping("scor", strict=False, patience=1), [1, 2]) == 2


def test_a_training_metric_is_that_of_the_epoch_at_hand(boring, make_trainer):
    def training_step(self, batch, batch_idx):
        self.log("mean", float(self.current_epoch), on_step=False, on_epoch=True)
        return self.loss(batch)

    for validation in (boring.loader(4), None):
        stopper = EarlyStopping("mean", patience=1)
        trainer = make_trainer(max_epochs=5, callbacks=stopper)
        trainer.fit(boring.regression(training_step=training_step), boring.loader(8), validation)
        assert (trainer.current_epoch, stopper.stopped_epoch, stopper.best_score) == (2, 2, 0.0)


def test_two_of_them_have_states_of_their_own():
    keys = {EarlyStopping(m, mode=mode).state_key for m in ("a", "b") for mode in ("min", "max")}
    assert len(keys) == 4


@pytest.mark.parametrize(("at_end", "epochs"), [(None, 4), (False, 4), (True, 2)])
def test_after_validations_or_after_each_epoch(run, at_end, epochs):
    stopper = EarlyStopping("loss", patience=1, min_delta=1e9, check_on_train_epoch_end=at_end)
    assert run(stopper, [1] * 6, check_val_every_n_epoch=2) == epochs


REASONS = [
    (
        {"patience": 2},
        [3, 3, 4],
        EarlyStoppingReason.PATIENCE_EXHAUSTED,
        "score has not improved on 3 2 times",
    ),
    ({}, [NAN], EarlyStoppingReason.NON_FINITE_METRIC, "score=nan is not finite"),
    (
        {"stopping_threshold": 2},
        [1],
        EarlyStoppingReason.STOPPING_THRESHOLD,
        "score=1 is better than stopping_threshold=2",
    ),
    (
        {"divergence_threshold": 2},
        [3],
        EarlyStoppingReason.DIVERGENCE_THRESHOLD,
        "score=3 is worse than divergence_threshold=2",
    ),
]


@pytest.mark.parametrize(("options", "scores", "reason", "message"), REASONS, ids=str)
def test_it_says_why_if_asked_to(run, capsys, options, scores, reason, message):
    stopper = EarlyStopping("score", **options)
    assert stopper.stopping_reason is EarlyStoppingReason.NOT_STOPPED
    assert stopper.stopping_reason_message is None
    run(stopper, scores)
    assert "EarlyStopping" not in capsys.readouterr().err
    assert (stopper.stopping_reason, stopper.stopping_reason_message) == (reason, message)
    run(EarlyStopping("score", verbose=True, **options), scores)
    assert f"EarlyStopping ends the run: {message}\n" in capsys.readouterr().err


def test_it_tells_of_improvements_if_asked_to(run, capsys):
    run(EarlyStopping("score", verbose=True), [3, 2, 2])
    lines = [x for x in capsys.readouterr().err.splitlines() if "improved" in x]
    assert lines == ["score has improved from inf to 3", "score has improved from 3 to 2"]


def test_the_reason_is_kept(run, tmp_path):
    keeper = ModelCheckpoint(tmp_path, save_last=True)
    stopper = EarlyStopping("score", patience=1)
    run(stopper, [1, 2, 3], callbacks=[keeper])
    again = EarlyStopping("score", patience=1)
    again.load_state_dict(torch.load(tmp_path / "last.ckpt")["callbacks"][again.state_key])
    assert again.stopping_reason is EarlyStoppingReason.PATIENCE_EXHAUSTED
    assert again.stopping_reason_message == stopper.stopping_reason_message
    old = {"wait_count": 1, "stopped_epoch": 0, "best_score": torch.tensor(2.0), "patience": 3}
    again.load_state_dict(old)
    assert again.stopping_reason is EarlyStoppingReason.NOT_STOPPED


def test_a_validation_of_its_own_does_not_count(boring, make_trainer):
    stopper = EarlyStopping("val_loss", patience=0, stopping_threshold=1e9)
    trainer = make_trainer(callbacks=stopper, logger=False)
    trainer.validate(boring.regression(), boring.loader(4))
    assert (stopper.wait_count, stopper.stopped_epoch, trainer.should_stop) == (0, 0, False)


def test_no_patience_stops_at_the_first_that_is_not_better(run):
    assert run(EarlyStopping("score", patience=0), [3, 2, 2, 1]) == 3


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("alone", "said"), [(True, ["E"]), (False, ["rank 0: E", "rank 1: E"])])
def test_which_ranks_say_so(boring, make_trainer, capfd, alone, said):
    pytest.importorskip("torchrelay_ddp")
    stopper = EarlyStopping(
        "val_loss", stopping_threshold=1e9, verbose=True, log_rank_zero_only=alone
    )
    trainer = make_trainer(strategy="ddp_fork", devices=2, callbacks=stopper, logger=False)
    trainer.fit(boring.regression(), boring.loader(16), boring.loader(8))
    lines = [x for x in capfd.readouterr().err.splitlines() if "EarlyStopping ends" in x]
    assert sorted(line[: line.index("E") + 1] for line in lines) == [
        f"rank 0: {each}" if alone else each for each in said
    ]


@pytest.mark.parametrize("patience", [-1, 1.5, True])
def test_a_patience_that_makes_no_sense(patience):
    with pytest.raises(ConfigurationError, match=r"patience=.*: must be a whole number from 0"):
        EarlyStopping("score", patience=patience)


def test_a_mode_that_makes_no_sense():
    with pytest.raises(ConfigurationError, match=r"mode='auto'.: must be 'min' or 'max'"):
        EarlyStopping("score", mode="auto")
