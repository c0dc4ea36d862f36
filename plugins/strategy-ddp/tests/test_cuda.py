"""On GPUs: NCCL, mixed precisions, DataParallel, SyncBatchNorm."""

from __future__ import annotations

import json

import pytest
import torch

from torchrelay import Trainer

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(200)]

GPUS = torch.cuda.device_count()
TWO = pytest.param(2, marks=pytest.mark.skipif(GPUS < 2, reason="needs two GPUs"))


def run(programs, *asked, ranks=1):
    """What each rank arrived at, for each of the Trainer's arguments."""
    arguments = (json.dumps({"accelerator": "gpu", **arguments}) for arguments in asked)
    return programs.train("runs.py", *arguments, ranks=ranks, name="runs")


def test_auto_takes_the_gpus():
    made = Trainer(enable_progress_bar=False, enable_checkpointing=False)
    assert made.strategy.accelerator.name == "cuda"
    assert len(made.strategy.devices) == GPUS
    assert not torch.cuda.is_initialized()


@pytest.mark.parametrize("devices", [1, TWO])
def test_ddp_equals_one_cpu_process(programs, reference, distance, devices):
    asked = [
        {"strategy": "ddp", "devices": devices},
        {"strategy": "ddp", "devices": devices, "precision": "32-true"},
        {"strategy": "ddp", "devices": devices, "precision": "bf16-mixed"},
        {"strategy": "ddp", "devices": devices, "precision": "16-mixed"},
    ]
    for rank in run(programs, *asked, ranks=devices):
        for ran in rank:
            assert (ran["accelerator"], ran["backend"], ran["world"]) == ("cuda", "nccl", devices)
            assert all(torch.isfinite(tensor).all() for tensor in ran["state"].values())
        exact, single, bfloat, half = (ran["state"] for ran in rank)
        assert distance(exact, reference) <= 1e-10
        assert distance(single, reference) <= 1e-4
        # AdamW's steps are of the learning rate's size whatever the gradients': 20 of 0.01 at most.
        assert distance(half, reference) <= 2e-2
        assert distance(bfloat, reference) <= 1e-1


@pytest.mark.parametrize("devices", [1, TWO])
def test_data_parallel_equals_one_cpu_process(programs, reference, distance, devices):
    asked = [{"strategy": "dp", "devices": devices}, {"strategy": "ddp2", "devices": devices}]
    for ran in run(programs, *asked)[0]:
        assert (ran["accelerator"], ran["world"]) == ("cuda", 1)
        assert distance(ran["state"], reference) <= 1e-10


@pytest.mark.parametrize("devices", [1, TWO])
def test_synchronised_batch_norm_equals_one_process(programs, distance, devices):
    alone = {"strategy": "single_device", "devices": 1, "sync_batchnorm": False}
    ((expected,),) = run(programs, alone)
    together = {"strategy": "ddp", "devices": devices, "sync_batchnorm": True}
    for (ran,) in run(programs, together, ranks=devices):
        assert (expected["norms"], ran["norms"]) == (["BatchNorm1d"], ["SyncBatchNorm"])
        assert distance(ran["state"], expected["state"]) <= 1e-10
