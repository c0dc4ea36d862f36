"""The first thing to run with Bagua and two GPUs: `TORCHRELAY_BAGUA_DEVICE=1 pytest .../tests/test_cuda.py`.

Nothing here has run so yet. It needs Python 3.10, and a Bagua that `torchrelay doctor` is content with.
"""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.testing.models import Regression, samples
from torchrelay_bagua import AsyncAverage, BaguaStrategy, algorithms, vendor

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(900)]

QUIET = {
    "max_epochs": 2,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
CPU = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}


class Momentum(Regression):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class AdamW(Regression):
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.02)


class QAdam(Regression):
    def configure_optimizers(self):
        from bagua.torch_api.algorithms.q_adam import QAdamOptimizer

        return QAdamOptimizer(self.parameters(), lr=0.02, warmup_steps=4)


def gpus(algorithm):
    # Processes of their own, as Bagua's connection ends with its process.
    strategy = BaguaStrategy(algorithm, start_method="spawn")
    return {
        "accelerator": "cuda",
        "devices": min(torch.cuda.device_count(), 2),
        "strategy": strategy,
    }


def fitted(kind, place, folder, batch, **options):
    made = Trainer(**{**QUIET, **options}, **place, default_root_dir=str(folder))
    module = kind()
    made.fit(module, DataLoader(samples(56), batch), DataLoader(samples(8), batch))
    return module


def apart(one, other):
    return max(float((v - other.state_dict()[n]).abs().max()) for n, v in one.state_dict().items())


def test_the_doctor_is_content():
    assert vendor.examined() is None


@pytest.mark.parametrize("kind", [Momentum, AdamW])
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}]
)
def test_gradients_are_averaged_exactly(kind, options, tmp_path):
    place = gpus("gradient_allreduce")
    mine = fitted(kind, place, tmp_path, 8 // place["devices"], **options)
    theirs = fitted(kind, CPU, tmp_path, 8, **options)
    assert apart(mine, theirs) <= 1e-4
    assert apart(theirs, kind()) > 0.01


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [
        ("bytegrad", Momentum),
        ("decentralized", Momentum),
        ("low_precision_decentralized", Momentum),
        (AsyncAverage(sync_interval_ms=5), Momentum),
        (AsyncAverage(sync_interval_ms=5, warmup_steps=3), Momentum),
        ("qadam", QAdam),
    ],
    ids=str,
)
def test_the_loss_falls(algorithm, kind, tmp_path):
    module = fitted(kind, gpus(algorithm), tmp_path, 4, max_epochs=8)
    everything = next(iter(DataLoader(samples(56), 56)))
    with torch.no_grad():
        assert float(module.loss(everything)) < 0.3 * float(kind().loss(everything))


def test_the_signatures_are_those_that_the_wheel_had():
    """What was read in the wheel's sources is what is installed."""
    registered = import_module("bagua.torch_api.algorithms").GlobalAlgorithmRegistry
    for name, kind in algorithms.ALGORITHMS.items():
        theirs = set(inspect.signature(registered.get(name)).parameters)
        assert set(inspect.signature(kind).parameters) == theirs - {"q_adam_optimizer"}
    communication = import_module("bagua.torch_api.communication")
    expected = ["store", "rank", "world_size", "local_world_size"]
    assert list(inspect.signature(communication.init_process_group).parameters) == expected
