"""A call with an argument that there is not, or no longer, says in one line what to write instead."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import subprocess
import sys

import pytest

from torchrelay import CombinedLoader, Trainer, seed_everything
from torchrelay.arguments import RETIRED, answering
from torchrelay.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint, ProgressBar
from torchrelay.errors import ConfigurationError
from torchrelay.loggers import CSVLogger
from torchrelay.profilers import AdvancedProfiler
from torchrelay.strategies import SingleDeviceStrategy

ARGUMENTS_OF_LIGHTNING = """
accelerator accumulate_grad_batches amp_backend amp_level auto_lr_find auto_scale_batch_size auto_select_gpus
automatic_optimization barebones benchmark callbacks check_val_every_n_epoch checkpoint_callback default_root_dir
detect_anomaly deterministic devices distributed_backend early_stop_callback enable_autolog_hparams
enable_checkpointing enable_model_summary enable_pl_optimizer enable_progress_bar fast_dev_run
flush_logs_every_n_steps gpus gradient_clip_algorithm gradient_clip_val inference_mode ipus limit_predict_batches
limit_test_batches limit_train_batches limit_val_batches log_every_n_steps log_gpu_memory log_save_interval logger
max_epochs max_steps max_time min_epochs min_steps model_registry move_metrics_to_cpu multiple_trainloader_mode
num_nodes num_processes num_sanity_val_steps overfit_batches plugins precision prepare_data_per_node
process_position profiler progress_bar_refresh_rate reload_dataloaders_every_epoch
reload_dataloaders_every_n_epochs replace_sampler_ddp resume_from_checkpoint row_log_interval
stochastic_weight_avg strategy sync_batchnorm terminate_on_nan tpu_cores track_grad_norm truncated_bptt_steps
use_distributed_sampler val_check_interval weights_save_path weights_summary
"""
"""Those that its Trainer has had from 1.0 to 2.6."""


class Mine(Trainer):
    def __init__(self, colour, **arguments):
        super().__init__(**arguments)
        self.colour = colour


def trainer():
    return Trainer(accelerator="cpu", logger=False)


CALLS = {
    "misspelt": (
        lambda: Trainer(max_epoch=3),
        "Trainer(max_epoch=3): no argument is called 'max_epoch', did you mean 'max_epochs'?",
    ),
    "hyphenless": (
        lambda: Trainer(valcheckinterval=3),
        "Trainer(valcheckinterval=3): no argument is called 'valcheckinterval', did you mean 'val_check_interval'?",
    ),
    "two": (
        lambda: Trainer(max_epoch=3, gpus=2),
        "Trainer(max_epoch=3, gpus=2): no argument is called 'max_epoch', did you mean 'max_epochs'?; no argument is "
        'called \'gpus\'; write accelerator="gpu", devices=2, or accelerator="cpu" for none',
    ),
    "retired, of no use": (
        lambda: Trainer(tpu_cores=None),
        "Trainer(tpu_cores=None): no argument is called 'tpu_cores'; leave it out",
    ),
    "retired, misspelt": (
        lambda: Trainer(tpu_core=8),
        "Trainer(tpu_core=8): no argument is called 'tpu_core'; if 'tpu_cores' is meant, write accelerator=\"tpu\", "
        "devices=8",
    ),
    "retired, with a long value": (
        lambda: Trainer(resume_from_checkpoint=object()),
        "Trainer(resume_from_checkpoint=...): no argument is called 'resume_from_checkpoint'; give it to fit: "
        "trainer.fit(..., ckpt_path=...)",
    ),
    "unlike any": (
        lambda: Trainer(xyzzy=1),
        "Trainer(xyzzy=1): no argument is called 'xyzzy'; its arguments are strategy=, accelerator=, devices=, "
        "num_nodes=, precision=, plugins=, callbacks=, logger=, max_epochs=, min_epochs=, max_steps=, min_steps= and "
        "29 more, which help(Trainer) describes",
    ),
    "by position": (
        lambda: Trainer("ddp"),
        "Trainer(): too many positional arguments, give each its name; its arguments are strategy=, accelerator=",
    ),
    "to a subclass": (
        lambda: Mine("red", max_epoch=3),
        "Mine(max_epoch=3): no argument is called 'max_epoch', did you mean 'max_epochs'?",
    ),
    "to a subclass, of its own": (
        lambda: Mine("red", color="red"),
        "Mine(color='red'): no argument is called 'color', did you mean 'colour'?",
    ),
    "fit, retired": (
        lambda: trainer().fit(None, train_dataloader=[1]),
        "Trainer.fit(train_dataloader=[1]): no argument is called 'train_dataloader'; write train_dataloaders=...",
    ),
    "fit, misspelt": (
        lambda: trainer().fit(None, val_dataloader=[1]),
        "Trainer.fit(val_dataloader=[1]): no argument is called 'val_dataloader', did you mean 'val_dataloaders'?",
    ),
    "fit, of nothing": (
        lambda: trainer().fit(),
        "Trainer.fit(): missing a required argument: 'model'; its arguments are model=, train_dataloaders=",
    ),
    "validate": (
        lambda: trainer().validate(None, val_dataloaders=[1]),
        "Trainer.validate(val_dataloaders=[1]): no argument is called 'val_dataloaders'; write dataloaders=...",
    ),
    "test": (
        lambda: trainer().test(None, test_dataloaders=[1]),
        "Trainer.test(test_dataloaders=[1]): no argument is called 'test_dataloaders'; write dataloaders=...",
    ),
    "predict": (
        lambda: trainer().predict(None, dataloader=[1]),
        "Trainer.predict(dataloader=[1]): no argument is called 'dataloader', did you mean 'dataloaders'?",
    ),
    "save_checkpoint": (
        lambda: trainer().save_checkpoint("a.ckpt", weight_only=True),
        "Trainer.save_checkpoint(weight_only=True): no argument is called 'weight_only', did you mean 'weights_only'?",
    ),
    "ModelCheckpoint": (
        lambda: ModelCheckpoint(filepath="a", period=2),
        "ModelCheckpoint(filepath='a', period=2): no argument is called 'filepath'; write dirpath=\"FOLDER\", "
        "filename=\"NAME\"; no argument is called 'period'; write every_n_epochs=2",
    ),
    "EarlyStopping": (
        lambda: EarlyStopping(patience=3),
        "EarlyStopping(): missing a required argument: 'monitor'; its arguments are monitor=, min_delta=",
    ),
    "LearningRateMonitor": (
        lambda: LearningRateMonitor(interval="step"),
        "LearningRateMonitor(interval='step'): no argument is called 'interval', did you mean 'logging_interval'?",
    ),
    "ProgressBar": (
        lambda: ProgressBar(refresh_rate_per_second=3),
        "ProgressBar(refresh_rate_per_second=3): no argument is called 'refresh_rate_per_second'; write refresh_rate=3",
    ),
    "logger": (
        lambda: CSVLogger("logs", flush_logs_every_n_step=3),
        "CSVLogger(flush_logs_every_n_step=3): no argument is called 'flush_logs_every_n_step', did you mean "
        "'flush_logs_every_n_steps'?",
    ),
    "profiler": (
        lambda: AdvancedProfiler(output_filename="a"),
        "AdvancedProfiler(output_filename='a'): no argument is called 'output_filename'; write dirpath=",
    ),
    "strategy": (
        lambda: SingleDeviceStrategy(devise="cpu"),
        "SingleDeviceStrategy(devise='cpu'): no argument is called 'devise', did you mean 'device'?",
    ),
    "loader": (
        lambda: CombinedLoader([], modes="min_size"),
        "CombinedLoader(modes='min_size'): no argument is called 'modes', did you mean 'mode'?",
    ),
    "seed": (
        lambda: seed_everything(1, worker=True),
        "seed_everything(worker=True): no argument is called 'worker', did you mean 'workers'?",
    ),
}


@pytest.mark.parametrize(("call", "message"), CALLS.values(), ids=CALLS)
def test_a_call_that_does_not_fit(call, message):
    with pytest.raises(ConfigurationError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ARGUMENTS_OF_LIGHTNING.split())
def test_every_argument_of_lightning_s_trainer_is_taken_or_answered(name):
    ours = inspect.signature(Trainer).parameters
    assert (name in ours) != (name in RETIRED["Trainer"])
    if name not in ours:
        with pytest.raises(
            ConfigurationError, match=f"no argument is called '{name}'; (?!its arg)"
        ):
            Trainer(**{name: 1})


@pytest.mark.parametrize("name", RETIRED["Trainer"])
def test_the_answer_names_arguments_that_there_are(name):
    ours = {
        *inspect.signature(Trainer).parameters,
        *("dirpath", "max_depth", "mode", "monitor", "norm_type", "refresh_rate", "swa_lrs"),
        *("automatic_optimization", "ckpt_path", "flush_logs_every_n_steps", "process_position"),
        "prepare_data_per_node",
    }
    assert name not in inspect.signature(Trainer).parameters
    assert set(re.findall(r"(\w+)=", RETIRED["Trainer"][name])) <= ours


def test_what_a_script_prints_is_one_line(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("from torchrelay import callbacks\n\ncallbacks.ModelCheckpoint(period=1)\n")
    environ = {k: v for k, v in os.environ.items() if k != "TORCHRELAY_TRACEBACK"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environ)
    said = "ModelCheckpoint(period=1): no argument is called 'period'; write every_n_epochs=1"
    assert (done.returncode, done.stderr) == (1, f"{script}:3: error: {said}\n")


def test_an_error_inside_the_call_is_not_taken_for_one_of_the_call():
    @answering
    def halve(number):
        return len(number) / 2

    with pytest.raises(TypeError, match="has no len"):
        halve(3)
    assert halve([1]) == 0.5


def test_the_subclass_keeps_its_arguments_and_the_signature_is_seen():
    assert Mine("red", accelerator="cpu", logger=False, max_epochs=3).max_epochs == 3
    assert "max_epochs" in inspect.signature(Trainer).parameters
    assert list(inspect.signature(Trainer.fit).parameters)[:2] == ["self", "model"]
    assert inspect.signature(ModelCheckpoint).parameters["mode"].default == "min"
    assert pickle.loads(pickle.dumps(EarlyStopping("loss"))).monitor == "loss"
