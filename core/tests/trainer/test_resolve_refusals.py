"""What resolution refuses, in one line that says what, why and what to do. No torch here."""

from __future__ import annotations

import pytest

from torchrelay.errors import (
    ConfigurationError,
    LaunchError,
    NotInstalledError,
    UnavailableError,
    UnknownNameError,
)
from torchrelay.trainer.resolve import Request, resolve

GPUS = {"cuda": 4}
REFUSALS = {
    "no GPU": (
        {"accelerator": "gpu"},
        {},
        UnavailableError,
        r'accelerator="gpu" needs a GPU; no cuda: no cuda driver; no mps: no mps driver; run where there is one',
    ),
    "no such hardware": (
        {"accelerator": "cuda"},
        {},
        UnavailableError,
        "accelerator='cuda' is not available here: no cuda driver; take accelerator=\"auto\"",
    ),
    "unknown accelerator": (
        {"accelerator": "cudda"},
        {},
        UnknownNameError,
        "'cudda', did you mean 'cuda'",
    ),
    "a known plugin's accelerator": (
        {"accelerator": "tpu"},
        {},
        NotInstalledError,
        "accelerator 'tpu'",
    ),
    "unknown alias": (
        {"strategy": "dpp"},
        {},
        UnknownNameError,
        "no strategy is called 'dpp', did you mean .*; available: single_device, .*ddp",
    ),
    "alias on the wrong accelerator": (
        {"strategy": "dp", "accelerator": "cpu"},
        {},
        ConfigurationError,
        "strategy 'dp' is not for accelerator 'cpu', only for cuda; threads share one interpreter",
    ),
    "alias whose accelerator is absent": (
        {"strategy": "dp"},
        {},
        UnavailableError,
        "strategy='dp' runs on cuda; no cuda: no cuda driver",
    ),
    "no devices": (
        {"devices": 0},
        {},
        ConfigurationError,
        "devices=0 asks for 0 devices; write a number from 1",
    ),
    "an empty list": (
        {"devices": []},
        {},
        ConfigurationError,
        r"devices=\[\] names no device; write devices=1",
    ),
    "fewer than none": (
        {"devices": -2},
        {},
        ConfigurationError,
        "devices=-2 asks for -2 devices; write a number",
    ),
    "a word": (
        {"devices": "x"},
        {},
        ConfigurationError,
        "devices='x' is no way to ask for cpu devices; write",
    ),
    "too many": (
        {"devices": 5},
        GPUS,
        ConfigurationError,
        "asks for 5 cuda devices, but there are only 4; write",
    ),
    "index too high": (
        {"devices": [4]},
        GPUS,
        ConfigurationError,
        "names cuda device 4, but there are only 4",
    ),
    "no nodes": (
        {"num_nodes": 0},
        {},
        ConfigurationError,
        'num_nodes=0 must be "auto" or a number from 1',
    ),
    "nodes as text": ({"num_nodes": "2"}, {}, ConfigurationError, "num_nodes='2' must be"),
    "nodes that nobody starts": (
        {"num_nodes": 2},
        {},
        LaunchError,
        "num_nodes=2 needs processes on 2 machines",
    ),
    "precision that the accelerator lacks": (
        {"precision": "64-true", "accelerator": "mps"},
        {"mps": 1},
        ConfigurationError,
        "accelerator 'mps' has no precision '64-true'; it has 32-true",
    ),
    "another accelerator's precision": (
        {"precision": "8-npu"},
        {},
        ConfigurationError,
        "accelerator 'cpu' has no precision '8-npu'",
    ),
    "unknown precision": (
        {"precision": "fp16"},
        {},
        UnknownNameError,
        "no precision is called 'fp16'.*available: 32-t",
    ),
    "unknown environment": (
        {"cluster_environment": "pbs"},
        {},
        ConfigurationError,
        "unknown cluster environment 'pbs'; known: kubeflow, local, lsf, mpi, slurm, torchrun",
    ),
    "other devices than torchrun's": (
        {"devices": 3},
        {"cluster": "torchrun"},
        LaunchError,
        "devices=3, but torchrun started 2 processes on this node; take torchrun --nproc-per-node 3",
    ),
    "other nodes than SLURM's": (
        {"num_nodes": 3, "devices": 2},
        {"cluster": "slurm"},
        LaunchError,
        "needs 2 tasks on each of 3 nodes, but SLURM started 2, 2 on 2; take .srun --nodes=3",
    ),
}


@pytest.mark.parametrize(("asked", "has", "error", "match"), REFUSALS.values(), ids=REFUSALS)
def test_what_is_refused_in_one_line(registry, machine, asked, has, error, match):
    with pytest.raises(error, match=match) as caught:
        resolve(Request(**asked), registry, machine(**has)).check_environment()
    assert "\n" not in str(caught.value)
