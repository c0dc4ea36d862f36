"""What users and plugins may import, and what importing it costs. A name that goes from here breaks somebody's code."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import torchrelay

PUBLIC = {
    "torchrelay": "Callback CombinedLoader LightningDataModule LightningModule Strategy Trainer seed_everything",
    "torchrelay.accelerators": "Accelerator CPUAccelerator CUDAAccelerator MPSAccelerator",
    "torchrelay.callbacks": (
        "BasePredictionWriter Callback Checkpointer DeviceStatsMonitor EMAWeightAveraging EarlyStopping "
        "EarlyStoppingReason GradientAccumulationScheduler LambdaCallback LearningRateMonitor ModelCheckpoint "
        "ModelSummary OnExceptionCheckpoint ProgressBar RichModelSummary RichProgressBar RichProgressBarTheme "
        "StochasticWeightAveraging TQDMProgressBar ThroughputMonitor Timer WeightAveraging"
    ),
    "torchrelay.checkpoint": (
        "AsyncCheckpointIO Checkpoint CheckpointIO TorchCheckpointIO atomic_write check_manifest from_names "
        "load_model_state make_manifest migrate replace_folder to_canonical to_names"
    ),
    "torchrelay.collectives": "Collectives NoCollectives ReduceOp TorchCollectives",
    "torchrelay.environments": (
        "ClusterEnvironment KubeflowEnvironment LSFEnvironment LocalEnvironment MPIEnvironment SLURMEnvironment "
        "TorchrunEnvironment"
    ),
    "torchrelay.errors": (
        "AmbiguousNameError BrokenPluginError CheckpointError ConfigurationError LaunchError NonFiniteLossError "
        "NotInstalledError PluginError SpecError TorchrelayError UnavailableError UnknownNameError UnsupportedError "
        "UserError WorkerError"
    ),
    "torchrelay.launchers": "Launcher MultiProcessingLauncher ScriptLauncher guard_worker mark",
    "torchrelay.loggers": "CSVLogger Logger TensorBoardLogger default_logger share tell",
    "torchrelay.plugin": (
        "AcceleratorSpec CONTRACT_VERSION Capabilities Capability CheckpointFormatSpec CheckpointIOSpec Declaration "
        "DiagnosticSpec "
        "EnvironmentSpec Hardware OLDEST_CONTRACT_VERSION PrecisionSpec Requirement StrategySpec Support hookimpl "
        "partial unsupported"
    ),
    "torchrelay.precision": "MixedPrecision Precision TruePrecision canonical",
    "torchrelay.profilers": (
        "AdvancedProfiler PassThroughProfiler Profiler PyTorchProfiler SimpleProfiler make"
    ),
    "torchrelay.strategies": (
        "Build Clip Needs ParallelStrategy Parts Plan ProcessGroupStrategy SingleDeviceStrategy "
        "StartMethod StepDispatcher Strategy average_gradients share_buffers"
    ),
    "torchrelay.trainer": "Trainer",
    "torchrelay.utilities": "CombinedLoader grad_norm rank_zero_info rank_zero_only rank_zero_warn",
}
TORCH_FREE = [
    "torchrelay",
    "torchrelay.errors",
    "torchrelay.plugin",
    "torchrelay.environments",
    "torchrelay.cli",
]


def public(module):
    own = lambda value: isinstance(value, type) and value.__module__ == module.__name__  # noqa: E731
    return getattr(module, "__all__", None) or [
        name for name, value in vars(module).items() if own(value)
    ]


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names(module):
    found = importlib.import_module(module)
    assert sorted(public(found)) == sorted(PUBLIC[module].split())
    for name in PUBLIC[module].split():
        assert getattr(found, name) is not None
        assert name in dir(found)


def test_the_version_is_that_of_the_distribution():
    from importlib.metadata import version

    assert torchrelay.__version__ == version("torchrelay")


def loaded_by(code):
    """The modules that a fresh interpreter has loaded after running `code`."""
    code = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_torchrelay_imports_neither_torch_nor_a_plugin_nor_what_finds_them():
    loaded = loaded_by("import torchrelay; dir(torchrelay); torchrelay.__version__")
    assert {name for name in loaded if name.startswith("torchrelay")} == {
        "torchrelay",
        "torchrelay.lazy",
    }
    assert not loaded & {"torch", "numpy", "pluggy", "importlib_metadata"}


def test_what_imports_no_torch_at_all():
    loaded = loaded_by(f"import {', '.join(TORCH_FREE)}")
    assert "torch" not in loaded
    assert not {name for name in loaded if name.startswith("torchrelay_")}


def test_importing_the_trainer_imports_no_plugin_and_looks_for_none():
    loaded = loaded_by("from torchrelay import Trainer")
    assert "torch" in loaded
    assert not {name for name in loaded if name.startswith("torchrelay_")}


@pytest.mark.parametrize("module", ["torchrelay", "torchrelay.strategies"])
def test_a_name_that_is_not_there(module):
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Nothing'"):
        importlib.import_module(module).Nothing  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'NothingStrategy'"):
        exec("from torchrelay.strategies import NothingStrategy")


def test_a_strategy_of_a_package_that_is_switched_off_says_how_to_get_it():
    code = """
import os
os.environ["TORCHRELAY_DISABLE_PLUGINS"] = "*"
try:
    from torchrelay.strategies import DDPStrategy
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.startswith(
        (
            "ConfigurationError strategy class 'DDPStrategy' cannot be had: torchrelay-ddp is installed, but",
            "NotInstalledError strategy class 'DDPStrategy' comes with torchrelay-ddp, which is not installed: pip",
        )
    )
