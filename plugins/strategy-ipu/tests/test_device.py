"""The first thing to run on an IPU: `TORCHRELAY_IPU_DEVICE=1 pytest plugins/strategy-ipu/tests/test_device.py`.

Nothing here has run on one yet.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.testing.models import Regression, samples
from torchrelay_ipu import IPUStrategy

pytestmark = [pytest.mark.ipu, pytest.mark.timeout(1200)]

QUIET = {
    "max_epochs": 2,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}


class Momentum(Regression):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class AdamW(Regression):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.02)


def fitted(kind, place, tmp_path, start=None, epochs=2, **options):
    made = Trainer(
        **{**QUIET, "max_epochs": epochs, **options}, **place, default_root_dir=str(tmp_path)
    )
    module = kind()
    made.fit(module, DataLoader(samples(28), 4), DataLoader(samples(8), 4), ckpt_path=start)
    return made, module


IPU = {"accelerator": "ipu", "devices": 1}
CPU = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}


@pytest.mark.parametrize("kind", [Momentum, AdamW])
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}]
)
def test_training_arrives_where_the_processor_does(kind, options, tmp_path):
    (mine, one), (theirs, other) = (fitted(kind, p, tmp_path, **options) for p in (IPU, CPU))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert mine.global_step == theirs.global_step
    losses = [float(each.callback_metrics["val_loss"]) for each in (mine, theirs)]
    assert abs(losses[0] - losses[1]) < 1e-3


@pytest.mark.parametrize("kind", [Momentum, AdamW])
def test_optimizer_state_travels(kind, tmp_path):
    half, _ = fitted(kind, IPU, tmp_path, epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert len(state) == 4
    _, expected = fitted(kind, CPU, tmp_path)
    for place in (IPU, CPU):
        _, module = fitted(kind, place, tmp_path, str(tmp_path / "half.ckpt"))
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_two_replicas(tmp_path):
    (_, one), (_, other) = (fitted(AdamW, p, tmp_path) for p in ({**IPU, "devices": 2}, CPU))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_several_updates_in_a_call(tmp_path):
    many = {**IPU, "strategy": IPUStrategy(device_iterations=7)}
    (mine, one), (theirs, other) = (fitted(Momentum, p, tmp_path) for p in (many, CPU))
    assert mine.global_step == theirs.global_step
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_the_signatures_are_the_sdk_s():
    """What was recorded of the published sources is what is installed."""
    import inspect
    from functools import reduce
    from pathlib import Path

    import poptorch

    from torchrelay.testing import signatures

    departing = []
    for name, entry in signatures.read(Path(__file__).with_name("signatures.json")).items():
        parts = name.split(".")[1:]
        if entry["kind"] != "callable" or not entry["used"] or "Training" in parts:
            continue
        found = inspect.signature(reduce(getattr, parts, poptorch)).parameters.values()
        mine = [(p.name, p.default) for p in found if p.name != "self"]
        if mine != [(p.name, p.default) for p in signatures.signature(entry).parameters.values()]:
            departing.append(name)
    assert not departing
