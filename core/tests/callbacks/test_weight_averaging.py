from __future__ import annotations

import pytest
import torch

from torchrelay.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from torchrelay.errors import ConfigurationError

NAME = "net.0.weight"


@pytest.fixture
def fit(boring, make_trainer):
    """Fits with a callback; what the weight was after each update, at validation, and at the end."""

    def run(callback, resume=None, others=(), seed=0, **options):
        seen = {"trained": [], "validated": []}

        def on_train_batch_end(self, outputs, batch, batch_idx):
            seen["trained"].append(boring.weights(self)[NAME])

        def validation_step(self, batch, batch_idx):
            if not self.trainer.sanity_checking:
                seen["validated"].append(boring.weights(self)[NAME])

        module = boring.regression(
            on_train_batch_end=on_train_batch_end, validation_step=validation_step, seed=seed
        )
        seen["start"] = boring.weights(module)[NAME]
        trainer = make_trainer(callbacks=[callback, *others], **{"max_epochs": 2, **options})
        trainer.fit(module, boring.loader(12), boring.loader(4), ckpt_path=resume)
        seen["end"] = boring.weights(module)[NAME]
        return seen

    return run


def close(one, other):
    return torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_mean_of_all_updates_is_validated_and_is_the_result(fit):
    seen = fit(WeightAveraging())
    assert len(seen["trained"]) == 6
    close(seen["validated"][0], torch.stack(seen["trained"][:3]).mean(0))
    close(seen["validated"][1], torch.stack(seen["trained"]).mean(0))
    close(seen["end"], seen["validated"][1])


def test_training_goes_on_as_without_it(fit):
    from torchrelay.callbacks import Callback

    alone = fit(Callback())
    averaged = fit(WeightAveraging())
    for one, other in zip(alone["trained"], averaged["trained"], strict=True):
        assert torch.equal(one, other)


def ema(start, trained, decay):
    average = trained[0]  # the first that is taken in replaces what was there
    for weight in trained[1:]:
        average = decay * average + (1 - decay) * weight
    return average


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        ({}, slice(None)),
        ({"update_every_n_steps": 2}, slice(None, None, 2)),
        ({"update_starting_at_step": 3}, slice(3, None)),
    ],
    ids=str,
)
def test_an_exponential_moving_average(fit, options, taken):
    seen = fit(EMAWeightAveraging(decay=0.75, **options))
    close(seen["end"], ema(seen["start"], seen["trained"][taken], 0.75))


def test_by_epoch(fit):
    class ByEpoch(WeightAveraging):
        def should_update(self, step_idx=None, epoch_idx=None):
            return epoch_idx is not None

    seen = fit(ByEpoch())
    close(seen["end"], torch.stack([seen["trained"][2], seen["trained"][5]]).mean(0))
    late = fit(
        EMAWeightAveraging(decay=0.5, update_starting_at_step=99, update_starting_at_epoch=1)
    )
    close(late["end"], late["trained"][5])


def test_only_updates_are_taken_in(fit):
    seen = fit(WeightAveraging(), accumulate_grad_batches=3)
    close(seen["end"], torch.stack([seen["trained"][2], seen["trained"][5]]).mean(0))


def test_a_checkpoint_holds_the_average_and_what_to_train_on_from(fit, tmp_path):
    keeper = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    seen = fit(WeightAveraging(), others=[keeper])
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    close(saved["state_dict"][NAME], torch.stack(seen["trained"][:3]).mean(0))
    assert torch.equal(saved["current_model_state"][NAME], seen["trained"][2])


@pytest.mark.parametrize("kind", [WeightAveraging, EMAWeightAveraging])
def test_a_resumed_run_equals_one_that_was_not_interrupted(fit, tmp_path, kind):
    keeper = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole = fit(kind(), others=[keeper])
    resumed = fit(kind(), resume=tmp_path / "epoch=0.ckpt", seed=5)
    for one, other in zip(whole["trained"][3:], resumed["trained"], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole["end"], resumed["end"])


def test_a_checkpoint_without_an_average_is_where_one_begins(fit, tmp_path):
    from torchrelay.callbacks import Callback

    fit(Callback(), others=[ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)])
    seen = fit(WeightAveraging(), resume=tmp_path / "epoch=0.ckpt", seed=5)
    close(seen["end"], torch.stack(seen["trained"]).mean(0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"decay": 1.5}, "decay=1.5.: must be from 0 to 1"),
        ({"update_every_n_steps": 0}, "update_every_n_steps=0.: must be a whole number from 1"),
    ],
)
def test_arguments_that_make_no_sense(options, match):
    with pytest.raises(ConfigurationError, match=match):
        EMAWeightAveraging(**options)


def test_a_module_that_is_not_whole_here_is_refused(boring, make_trainer):
    module = boring.regression()
    module.rest = torch.nn.Parameter(torch.empty(0))  # the placeholder of what other ranks hold
    match = "EMAWeightAveraging averages whole weights on each rank, and Single.* part of rest here"
    with pytest.raises(ConfigurationError, match=match):
        make_trainer(callbacks=EMAWeightAveraging()).fit(module, boring.loader())


@pytest.mark.timeout(120)
def test_two_processes_have_one_average(boring, make_trainer, tmp_path):
    pytest.importorskip("torchrelay_ddp")
    keeper = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    trainer = make_trainer(
        strategy="ddp_fork", devices=2, callbacks=[WeightAveraging(), keeper], max_epochs=1
    )
    module = boring.regression()
    trainer.fit(module, boring.loader(32), boring.loader(8))
    saved = [torch.load(path, weights_only=True) for path in keeper.kept]
    trained = [each["current_model_state"][NAME] for each in saved]
    assert len(trained) == 4
    assert torch.equal(saved[-1]["state_dict"][NAME], module.net[0].weight)
    close(module.net[0].weight.detach(), torch.stack(trained).mean(0))
