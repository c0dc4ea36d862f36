"""Arguments that cannot be are refused in one line that says what, why and what to do."""

from __future__ import annotations

import os
import sys

import pytest
import torch

from torchrelay import Trainer
from torchrelay.accelerators import CPUAccelerator
from torchrelay.callbacks import EarlyStopping, ModelCheckpoint
from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import (
    ConfigurationError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    UserError,
)
from torchrelay.precision import MixedPrecision, TruePrecision
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing.forkserver import shared_server

ARGUMENTS = {
    "alias": (
        {"strategy": "single_devise"},
        UnknownNameError,
        "'single_devise', did you mean 'single_device'",
    ),
    "retired alias": (
        {"strategy": "ddp_cpu"},
        UnknownNameError,
        "'ddp_cpu' is not a name of torchrelay's",
    ),
    "strategy class": (
        {"strategy": SingleDeviceStrategy},
        ConfigurationError,
        r"strategy=<class .* is neither a name nor an instance of Strategy; an instance is made by SingleDev",
    ),
    "no strategy": (
        {"strategy": None},
        ConfigurationError,
        "strategy=None is neither a name .* leave it out",
    ),
    "accelerator class": (
        {"accelerator": CPUAccelerator},
        ConfigurationError,
        r"made by CPUAccelerator\(...\)",
    ),
    "accelerator": (
        {"accelerator": "xpu2"},
        UnknownNameError,
        "no accelerator is called 'xpu2'.*available: auto, gpu, cpu",
    ),
    "accelerators": (
        {"accelerator": "gpus"},
        UnknownNameError,
        "no accelerator is called 'gpus', did you mean 'gpu'",
    ),
    "accelerator in capitals": (
        {"accelerator": "CPU"},
        UnknownNameError,
        "no accelerator is called 'CPU', did you mean 'cpu'",
    ),
    "accelerator, not installed": (
        {"accelerator": "tpus"},
        UnknownNameError,
        "no accelerator is called 'tpus', did you mean 'tpu'",
    ),
    "strategy as accelerator": (
        {"accelerator": "ddp_spawn"},
        UnknownNameError,
        "no accelerator is called 'ddp_spawn', it is a strategy: write strategy='ddp_spawn'",
    ),
    "retired strategy as accelerator": (
        {"accelerator": "ddp_cpu"},
        UnknownNameError,
        "no accelerator is called 'ddp_cpu': write strategy='ddp_spawn' or",
    ),
    "accelerator as strategy": (
        {"strategy": "gpu"},
        UnknownNameError,
        "no strategy is called 'gpu', it is an accelerator: write accelerator='gpu'",
    ),
    "devices 0": (
        {"devices": 0},
        ConfigurationError,
        "devices=0 asks for 0 devices; write a number from 1, -1",
    ),
    "devices []": (
        {"devices": []},
        ConfigurationError,
        r"devices=\[\] names no device; write devices=1 or",
    ),
    "devices -2": (
        {"devices": -2},
        ConfigurationError,
        "devices=-2 asks for -2 devices; write a number from 1",
    ),
    "devices x": (
        {"devices": "x"},
        ConfigurationError,
        "devices='x' is no way to ask for cpu devices; write a",
    ),
    "devices by index": (
        {"devices": [0, 1]},
        ConfigurationError,
        "cpu devices are processes and have none; write",
    ),
    "devices for one": (
        {"devices": 2, "strategy": "single_device"},
        UnsupportedError,
        'devices=2 and num_nodes=1 ask for several processes and it has one; take strategy="ddp", or devices=1',
    ),
    "nodes": (
        {"num_nodes": 2, "strategy": "single_device"},
        UnsupportedError,
        "devices=1 and num_nodes=2 ask for several processes and it has one; take strategy=.ddp.",
    ),
    "precision": (
        {"precision": "8-bit"},
        UnknownNameError,
        "no precision is called '8-bit'.*available: 32-true",
    ),
    "precision number": (
        {"precision": 16.0},
        ConfigurationError,
        "precision=16.0 is neither a name nor an inst",
    ),
    "precision twice": (
        {"precision": 32, "plugins": TruePrecision("64-true")},
        ConfigurationError,
        "precision is given twice: 32 and, in plugins, <.*TruePrecision.*; leave one of them out",
    ),
    "plugins twice": (
        {"plugins": [TruePrecision(), MixedPrecision()]},
        ConfigurationError,
        "plugins has two of the kind precision: .* leave one out",
    ),
    "plugins nonsense": (
        {"plugins": [3]},
        ConfigurationError,
        "plugins has 3, which is none of Precision, Clus",
    ),
    "plugins name": (
        {"plugins": "nothing"},
        ConfigurationError,
        "'nothing', which is the name of no cluster env",
    ),
    "component twice": (
        {"strategy": SingleDeviceStrategy(accelerator=CPUAccelerator()), "accelerator": "cpu"},
        ConfigurationError,
        "accelerator is given twice: 'cpu' to the Trainer, and CPUAccelerator inside SingleDeviceStrategy; leave",
    ),
    "checkpoint IO twice": (
        {"strategy": SingleDeviceStrategy(checkpoint_io=TorchCheckpointIO()), "plugins": "torch"},
        ConfigurationError,
        "checkpoint_io is given twice: 'torch' to the Trainer, and TorchCheckpointIO inside SingleDeviceStrategy",
    ),
    "environment twice": (
        {
            "strategy": SingleDeviceStrategy(cluster_environment=LocalEnvironment()),
            "plugins": "local",
        },
        ConfigurationError,
        "cluster_environment is given twice: 'local' to the Trainer, and LocalEnvironment inside SingleDevice",
    ),
    "device twice": (
        {"strategy": SingleDeviceStrategy(device="cpu"), "devices": 1},
        ConfigurationError,
        "devices is given twice: 1 to the Trainer",
    ),
    "device elsewhere": (
        {"strategy": SingleDeviceStrategy(device="meta")},
        UnsupportedError,
        "its device='meta' is not of accelerator 'cpu'; give the Trainer the accelerator that it is of",
    ),
    "callback class": (
        {"callbacks": [ModelCheckpoint]},
        ConfigurationError,
        "callbacks has <class .* no torchrelay",
    ),
    "logger": (
        {"logger": "csv"},
        ConfigurationError,
        r"logger='csv' has no log_metrics.*CSVLogger\(save_dir\)",
    ),
    "limit": (
        {"limit_train_batches": 1.5},
        ConfigurationError,
        "limit_train_batches=1.5 must be a number of batc",
    ),
    "limit sign": (
        {"limit_val_batches": -1},
        ConfigurationError,
        "limit_val_batches=-1 must be a number of batches",
    ),
    "limit flag": (
        {"limit_test_batches": True},
        ConfigurationError,
        "limit_test_batches=True must be a number",
    ),
    "accumulation": (
        {"accumulate_grad_batches": 0},
        ConfigurationError,
        "accumulate_grad_batches=0 must be a whole n",
    ),
    "epochs": (
        {"max_epochs": 1.5},
        ConfigurationError,
        "max_epochs=1.5 must be a whole number from -1",
    ),
    "min_epochs": (
        {"min_epochs": "two"},
        ConfigurationError,
        "min_epochs='two' must be a whole number from 0",
    ),
    "steps": ({"max_steps": -2}, ConfigurationError, "max_steps=-2 must be a whole number from -1"),
    "fast_dev_run": (
        {"fast_dev_run": -1},
        ConfigurationError,
        "fast_dev_run=-1 must be a whole number from 0",
    ),
    "clipping": (
        {"gradient_clip_val": -1.0},
        ConfigurationError,
        "gradient_clip_val=-1.0 must be a number from 0",
    ),
    "clipping algorithm": (
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "l1"},
        ConfigurationError,
        "gradient_clip_algorithm='l1' must be 'norm' or 'value'",
    ),
    "clipping without a limit": (
        {"gradient_clip_algorithm": "norm"},
        ConfigurationError,
        "gradient_clip_algorithm='norm' clips nothing without gradient_clip_val; give the limit too",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "match"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_arguments(arguments, error, match):
    with pytest.raises(error, match=match) as caught:
        Trainer(**{"accelerator": "cpu", **arguments})
    assert isinstance(caught.value, UserError)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps"])
def test_hardware_that_is_not_here(accelerator):
    with pytest.raises(
        UnavailableError, match=r"no cuda: .*; no mps: |is not available here: .*; take accelerator"
    ):
        Trainer(accelerator=accelerator)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: ModelCheckpoint(mode="best"), "mode='best'.: must be 'min' or 'max'"),
        (lambda: ModelCheckpoint(save_top_k=-2), "save_top_k=-2.: must be a whole number from -1"),
        (
            lambda: ModelCheckpoint(save_top_k=3),
            "save_top_k=3. needs monitor= to tell which are best",
        ),
        (
            lambda: ModelCheckpoint(every_n_epochs=0),
            "every_n_epochs=0.: must be a whole number from 1",
        ),
        (lambda: EarlyStopping("loss", mode="least"), "mode='least'.: must be 'min' or 'max'"),
    ],
    ids=["mode", "top-k", "top-k-without-monitor", "every", "early"],
)
def test_callbacks_refuse_their_arguments(make, match):
    with pytest.raises(ConfigurationError, match=match):
        make()


@pytest.mark.timeout(60)
def test_an_installed_plugin_that_is_switched_off_or_absent():
    """With every plugin switched off, `ddp` cannot be had, whether or not its package is installed here."""
    code = "from torchrelay import Trainer; Trainer(strategy='ddp', accelerator='cpu', devices=2)"
    environ = {**os.environ, "TORCHRELAY_DISABLE_PLUGINS": "*"}
    done = shared_server().run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    off = "strategy 'ddp' cannot be had: torchrelay-ddp is installed, but the environment variable TORCHRELAY_DIS"
    absent = "strategy 'ddp' comes with torchrelay-ddp, which is not installed: pip install "
    assert off in done.stderr or absent in done.stderr
