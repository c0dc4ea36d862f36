"""The first thing to run on an HPU: `TORCHRELAY_HPU_DEVICE=1 pytest plugins/strategy-hpu/tests/test_device.py`.

Nothing here has run on one yet. Run it in both modes: with PT_HPU_LAZY_MODE=0, and with 1.
"""

from __future__ import annotations

import inspect
import sys
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from torchrelay import Trainer
from torchrelay.testing.models import Regression, samples
from torchrelay.testing.numerics_problems import Trained
from torchrelay_hpu import SingleHPUStrategy

sys.path.insert(0, str(Path(__file__).parent / "scripts"))

pytestmark = [pytest.mark.hpu, pytest.mark.timeout(1200)]

QUIET = {
    "max_epochs": 2,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
HPU = {"accelerator": "hpu", "devices": 1, "strategy": "hpu_single"}
CPU = {"accelerator": "cpu", "devices": 1, "strategy": "single_device"}


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


def near(one, other, tolerance=1e-3):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize("kind", [Momentum, AdamW])
@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 3}, {"gradient_clip_val": 0.1}]
)
def test_training_arrives_where_the_processor_does(kind, options, tmp_path):
    (mine, one), (theirs, other) = (fitted(kind, p, tmp_path, **options) for p in (HPU, CPU))
    near(one, other)
    assert mine.global_step == theirs.global_step


@pytest.mark.parametrize("options", [{}, {"fused_adamw": True}])
def test_state_travels(options, tmp_path):
    place = {**HPU, "strategy": SingleHPUStrategy(**options)}
    half, _ = fitted(AdamW, place, tmp_path, epochs=1)
    half.save_checkpoint(tmp_path / "half.ckpt")
    _, expected = fitted(AdamW, CPU, tmp_path)
    for there in (place, CPU):
        _, module = fitted(AdamW, there, tmp_path, str(tmp_path / "half.ckpt"))
        near(module, expected)


def test_bf16(tmp_path):
    (_, one), (_, other) = (fitted(AdamW, p, tmp_path, precision="bf16-mixed") for p in (HPU, CPU))
    near(one, other, 5e-2)


@pytest.fixture
def lazy():
    from habana_frameworks.torch.utils.internal import is_lazy

    return is_lazy()


def test_compiled_steps_arrive_there_too(lazy, tmp_path):
    if lazy:
        pytest.skip("for PT_HPU_LAZY_MODE=0")
    place = {**HPU, "strategy": SingleHPUStrategy(compile=True)}
    (_, one), (_, other) = (fitted(AdamW, p, tmp_path) for p in (place, CPU))
    near(one, other)


def test_graphs_predict_what_the_processor_does(lazy, tmp_path):
    if not lazy:
        pytest.skip("for PT_HPU_LAZY_MODE=1")
    found = []
    for place in ({**HPU, "strategy": SingleHPUStrategy(hpu_graphs=["net"])}, CPU):
        made = Trainer(**QUIET, **place, default_root_dir=str(tmp_path))
        predictions = made.predict(Regression(), DataLoader(samples(28), 4))
        found.append(torch.cat([each.cpu() for each in predictions]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


def test_two_processes_arrive_where_one_on_the_processor_does(lazy, programs, distance):
    import pair

    mode = "1" if lazy else "0"
    ranks = programs.train(
        "pair.py", name="pair", HPU_PAIR_ACCELERATOR="hpu", PT_HPU_LAZY_MODE=mode
    )
    for kind, optimizer in pair.optimizers().items():
        expected = pair.train(pair.CPU, Trained(optimizer), 8)
        kinds = {"momentum": ["momentum"], "adamw": ["adamw", "fused"] + ["compiled"] * (not lazy)}
        for rank in ranks:
            assert all(distance(rank["states"][each], expected) <= 1e-3 for each in kinds[kind])
            assert rank["notes"]["talk"]["integers"].tolist() == [2**41 + 3, -5]


def test_the_signatures_are_the_sdk_s():
    """What was recorded of the published sources is what is installed."""
    from torchrelay.testing import signatures

    departing = []
    for name, entry in signatures.read(Path(__file__).with_name("signatures.json")).items():
        if entry["kind"] != "callable" or not entry["used"]:
            continue
        parts = name.split(".")
        for end in range(len(parts) - 1, 0, -1):
            try:
                found = import_module(".".join(parts[:end]))
            except ModuleNotFoundError:
                continue
            break
        try:
            mine = inspect.signature(reduce(getattr, parts[end:], found)).parameters.values()
        except AttributeError as error:
            departing.append(str(error))
            continue
        names = [p.name for p in mine if p.name != "self"]
        if names != list(signatures.signature(entry).parameters):
            departing.append(name)
    assert not departing
