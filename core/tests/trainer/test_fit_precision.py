"""Every precision trains on the CPU, and says the same as 64 bits within its tolerance."""

from __future__ import annotations

import pytest
import torch

from torchrelay.precision import MixedPrecision

# Formats of parameters and of the network's outputs, and how far weights may be from those of 64 bits.
FORMATS = {
    "64-true": (torch.float64, torch.float64, 1e-12),
    "32-true": (torch.float32, torch.float32, 1e-5),
    "16-true": (torch.float16, torch.float16, 0.005),
    "bf16-true": (torch.bfloat16, torch.bfloat16, 0.04),
    "16-mixed": (torch.float32, torch.float16, 0.005),
    "bf16-mixed": (torch.float32, torch.bfloat16, 0.02),
}
WINDOWS = {"accumulate_grad_batches": 3, "gradient_clip_val": 0.5}


def fitted(boring, make_trainer, **options):
    """The trained module, and the formats that its outputs had while training."""
    formats = set()

    def loss(self, batch):
        x, y = batch
        prediction = self(x)
        if self.training:
            formats.add(prediction.dtype)
        return torch.nn.functional.mse_loss(prediction, y.to(prediction.dtype))

    module = boring.regression(loss=loss)
    trainer = make_trainer(max_epochs=3, **options)
    trainer.fit(module, boring.loader(), boring.loader())
    assert torch.isfinite(trainer.callback_metrics["val_loss"])
    return module, formats


@pytest.mark.parametrize("options", [{}, WINDOWS], ids=["plain", "accumulated-and-clipped"])
@pytest.mark.parametrize("precision", FORMATS)
def test_close_to_64_bits(boring, make_trainer, precision, options):
    parameters, outputs, tolerance = FORMATS[precision]
    chosen = {"precision": precision}
    if precision == "16-mixed":
        # From torch's initial scale the first updates would overflow, and be skipped.
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        chosen = {"plugins": MixedPrecision("16-mixed", scaler=scaler)}
    module, seen = fitted(boring, make_trainer, **chosen, **options)
    reference, _ = fitted(boring, make_trainer, precision="64-true", **options)
    assert {p.dtype for p in module.parameters()} == {parameters}
    assert seen == {outputs}
    assert (
        boring.difference(boring.weights(module.double()), boring.weights(reference)) <= tolerance
    )
    start = boring.weights(boring.regression().double())
    assert boring.difference(start, boring.weights(reference)) > 0.1


@pytest.mark.parametrize(
    ("spelling", "precision"),
    [
        (16, "16-mixed"),
        ("16", "16-mixed"),
        (32, "32-true"),
        ("32", "32-true"),
        (64, "64-true"),
        ("64", "64-true"),
        ("bf16", "bf16-mixed"),
        (None, "32-true"),
    ],
    ids=repr,
)
def test_older_spellings(boring, make_trainer, spelling, precision):
    trainer = make_trainer(precision=spelling)
    assert trainer.strategy.precision_plugin.name == precision
    module, seen = fitted(boring, make_trainer, precision=spelling)
    assert ({p.dtype for p in module.parameters()}, seen) == (
        {FORMATS[precision][0]},
        {FORMATS[precision][1]},
    )


def test_an_update_that_overflows_is_skipped_and_the_scale_shrinks(boring, make_trainer):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    precision = MixedPrecision("16-mixed", scaler=scaler)
    module = boring.regression()
    before = boring.weights(module)
    make_trainer(plugins=precision, max_steps=2).fit(module, boring.loader())
    assert boring.difference(before, boring.weights(module)) == 0.0
    assert precision.state_dict()["scale"] == 2.0**28


def test_a_scheduler_goes_on_when_an_update_overflows(boring, make_trainer):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    trainer = make_trainer(plugins=MixedPrecision("16-mixed", scaler=scaler), max_steps=2)
    trainer.fit(boring.regression(configure_optimizers=configure_optimizers), boring.loader())
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.025


def test_the_scale_is_part_of_a_checkpoint(boring, make_trainer, tmp_path):
    trainer = make_trainer(precision="16-mixed", max_steps=3)
    trainer.fit(boring.regression(), boring.loader())
    scale = trainer.strategy.precision_plugin.state_dict()["scale"]
    assert scale < 2.0**16
    trainer.save_checkpoint(tmp_path / "scaled.ckpt")
    again = make_trainer(precision="16-mixed", max_steps=3)
    again.fit(boring.regression(), boring.loader(), ckpt_path=tmp_path / "scaled.ckpt")
    assert again.strategy.precision_plugin.state_dict()["scale"] == scale
