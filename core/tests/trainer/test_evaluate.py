from __future__ import annotations

import pytest
import torch

from torchrelay import Callback


def loss_over(boring, module, number):
    x, y = boring.samples(number).tensors
    with torch.no_grad():
        return float(torch.nn.functional.mse_loss(module(x), y))


@pytest.mark.parametrize(("stage", "name"), [("validate", "val_loss"), ("test", "test_loss")])
def test_the_metrics_are_returned_weighted_by_batch(boring, make_trainer, stage, name):
    module = boring.regression().eval()
    trainer = make_trainer()
    results = getattr(trainer, stage)(module, boring.loader(10))
    assert results == [{name: pytest.approx(loss_over(boring, module, 10), rel=1e-6)}]
    assert float(trainer.callback_metrics[name]) == results[0][name]


def test_predictions_come_back_batch_by_batch(boring, make_trainer):
    module = boring.regression().eval()
    predictions = make_trainer().predict(module, boring.loader(10))
    assert [len(batch) for batch in predictions] == [4, 4, 2]
    x, _ = boring.samples(10).tensors
    torch.testing.assert_close(torch.cat(predictions), module(x).detach())


def test_forward_predicts_unless_predict_step_is_defined(boring, make_trainer):
    from torchrelay import LightningModule

    module = boring.regression(predict_step=LightningModule.predict_step)
    inputs = [torch.ones(2, 4), torch.zeros(1, 4)]
    predictions = make_trainer().predict(module, inputs)
    assert [tuple(batch.shape) for batch in predictions] == [(2, 1), (1, 1)]


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("validate", "limit_val_batches"),
        ("test", "limit_test_batches"),
        ("predict", "limit_predict_batches"),
    ],
)
@pytest.mark.parametrize(("limit", "expected"), [(2, 2), (0.4, 2), (0, 0), (None, 5)], ids=str)
def test_limits(boring, make_trainer, stage, option, limit, expected):
    count = []
    hook = {"validate": "on_validation_batch_end"}.get(stage, f"on_{stage}_batch_end")
    module = boring.regression(**{hook: lambda self, *args: count.append(args)})
    getattr(make_trainer(**{option: limit}), stage)(module, boring.loader(20))
    assert len(count) == expected


@pytest.mark.parametrize(("inference_mode", "expected"), [(True, True), (False, False)])
def test_no_gradients_and_evaluation_mode(boring, make_trainer, inference_mode, expected):
    seen = []

    def test_step(self, batch, batch_idx):
        seen.append((self.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    module = boring.regression(test_step=test_step, dropout=0.5)
    module.net[0].eval()
    make_trainer(inference_mode=inference_mode).test(module, boring.loader(4))
    assert seen == [(False, False, expected)]
    assert (module.training, module.net[0].training, module.net[2].training) == (True, False, True)


def test_fit_trains_again_in_training_mode_after_validation(boring, make_trainer):
    seen = []

    def training_step(self, batch, batch_idx):
        seen.append((self.training, self.net[2].training, torch.is_grad_enabled()))
        return self.loss(batch)

    module = boring.regression(training_step=training_step, dropout=0.1)
    make_trainer(max_epochs=2).fit(module, boring.loader(8), boring.loader(8))
    assert set(seen) == {(True, True, True)}


def test_a_checkpoints_weights_are_evaluated(boring, make_trainer, tmp_path):
    trained = boring.regression()
    trainer = make_trainer(max_epochs=2)
    trainer.fit(trained, boring.loader())
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    expected = make_trainer().test(trained, boring.loader())
    fresh = boring.regression(seed=8)
    assert make_trainer().test(fresh, boring.loader()) != expected
    assert make_trainer().test(fresh, boring.loader(), ckpt_path=tmp_path / "it.ckpt") == expected


def test_data_may_come_from_the_module(boring, make_trainer):
    methods = {
        name: lambda self: boring.loader(8)
        for name in ("train_dataloader", "val_dataloader", "test_dataloader", "predict_dataloader")
    }
    module = boring.regression(**methods)
    trainer = make_trainer()
    trainer.fit(module)
    assert trainer.num_training_batches == 2
    assert {"loss", "val_loss"} <= trainer.callback_metrics.keys()
    assert len(trainer.validate(module)) == len(trainer.test(module)) == 1
    assert len(trainer.predict(module)) == 2


def test_validation_starts_anew_each_epoch(boring, make_trainer):
    values = []

    class Watch(Callback):
        def on_validation_end(self, trainer, pl_module):
            values.append((trainer.sanity_checking, float(trainer.callback_metrics["val"])))

    def validation_step(self, batch, batch_idx):
        self.log("val", float(self.trainer.global_step))

    module = boring.regression(validation_step=validation_step)
    make_trainer(max_epochs=2, callbacks=Watch()).fit(module, boring.loader(8), boring.loader(12))
    assert values == [(True, 0.0), (False, 2.0), (False, 4.0)]
