from __future__ import annotations

import pickle

import pytest
import torch

from torchrelay import Callback, Trainer
from torchrelay.accelerators import CPUAccelerator
from torchrelay.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from torchrelay.checkpoint import TorchCheckpointIO
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.precision import TruePrecision
from torchrelay.strategies import SingleDeviceStrategy


class OwnAccelerator(CPUAccelerator):
    """A device that no plugin knows."""

    name = "own"

    @staticmethod
    def count():
        return 1


class OwnCheckpointIO(TorchCheckpointIO):
    """Notes what it writes."""

    def __init__(self):
        self.written = []

    def save_checkpoint(self, checkpoint, path):
        self.written.append(str(path))
        super().save_checkpoint(checkpoint, path)


def test_what_is_added_by_default(tmp_path):
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path)
    assert [type(c) for c in trainer.callbacks] == [ProgressBar, ModelSummary, ModelCheckpoint]
    mine = ModelCheckpoint()
    assert Trainer(accelerator="cpu", callbacks=mine, barebones=False).callbacks[-1] is mine
    tried = Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False)
    assert ([type(c) for c in tried.callbacks], tried.loggers) == ([ModelSummary], [])
    assert Trainer(accelerator="cpu", barebones=True).callbacks == []
    assert [type(logger).__name__ for logger in trainer.loggers] == ["TensorBoardLogger"]
    assert trainer.max_epochs is None
    assert trainer.explain().count("\n") == 5


def test_ranks_of_a_run_of_one(make_trainer):
    trainer = make_trainer()
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank) == (1, 0, 0)
    assert trainer.is_global_zero
    assert (trainer.current_epoch, trainer.global_step, trainer.sanity_checking) == (0, 0, False)
    assert (trainer.callback_metrics, trainer.progress_bar_metrics) == ({}, {})
    with pytest.raises(ConfigurationError, match="log: nothing is running"):
        trainer.metrics  # noqa: B018


@pytest.mark.parametrize("as_list", [False, True])
def test_plugins_are_instances_or_names(make_trainer, as_list):
    checkpoint_io = OwnCheckpointIO()
    parts = ["bf16-mixed", "local", checkpoint_io]
    strategy = make_trainer(plugins=parts if as_list else tuple(parts)).strategy
    assert strategy.precision_plugin.name == "bf16-mixed"
    assert isinstance(strategy.cluster_environment, LocalEnvironment)
    assert strategy.checkpoint_io is checkpoint_io
    assert type(make_trainer(plugins="torch").strategy.checkpoint_io) is TorchCheckpointIO


def test_a_strategy_of_the_users_own_with_its_components(boring, make_trainer, tmp_path):
    class Own(SingleDeviceStrategy):
        """Counts the updates."""

        updates = 0

        def optimizer_step(self, optimizer, closure):
            self.updates += 1
            return super().optimizer_step(optimizer, closure)

    checkpoint_io = OwnCheckpointIO()
    strategy = Own(
        accelerator=OwnAccelerator(),
        precision_plugin=TruePrecision("64-true"),
        checkpoint_io=checkpoint_io,
    )
    trainer = make_trainer(strategy=strategy, accelerator="auto")
    module = boring.regression()
    trainer.fit(module, boring.loader())
    trainer.save_checkpoint(tmp_path / "it.ckpt")
    assert trainer.strategy is strategy
    assert strategy.updates == trainer.global_step == 5
    assert module.net[0].weight.dtype is torch.float64
    assert checkpoint_io.written == [str(tmp_path / "it.ckpt")]
    manifest = torch.load(tmp_path / "it.ckpt", weights_only=True)["torchrelay"]
    assert (manifest["strategy"], manifest["alias"], manifest["distribution"]) == (
        "Own",
        None,
        None,
    )


def test_an_accelerator_of_the_users_own(boring, make_trainer):
    trainer = make_trainer(accelerator=OwnAccelerator())
    trainer.fit(boring.regression(), boring.loader())
    assert trainer.global_step == 5
    assert "own (the instance given)" in trainer.explain()


def refusing(capability):
    """A strategy that declares one thing that it cannot do."""
    declared = Capabilities(
        declared={capability: unsupported("it is too small")}, precisions=("32-true",)
    )
    return type("Small", (SingleDeviceStrategy,), {"capabilities": declared})()


@pytest.mark.parametrize(
    ("capability", "options", "origin"),
    [
        (
            Capability.GRADIENT_ACCUMULATION,
            {"accumulate_grad_batches": 2},
            "accumulate_grad_batches=2",
        ),
        (Capability.CLIP_BY_NORM, {"gradient_clip_val": 1.0}, "gradient_clip_val"),
        (
            Capability.CLIP_BY_VALUE,
            {"gradient_clip_val": 1, "gradient_clip_algorithm": "value"},
            "gradient_clip_val",
        ),
        (Capability.SYNC_BATCHNORM, {"sync_batchnorm": True}, "sync_batchnorm=True"),
    ],
)
def test_what_a_strategy_declares_is_refused_when_the_trainer_is_made(
    make_trainer, capability, options, origin
):
    message = f"Small cannot do this: {origin} needs {capability.value}: it is too small"
    with pytest.raises(UnsupportedError, match=f"^{message}$"):
        make_trainer(strategy=refusing(capability), **options)
    make_trainer(strategy=refusing(capability))


def test_every_reason_is_given_at_once(make_trainer):
    strategy = refusing(Capability.SYNC_BATCHNORM)
    with pytest.raises(
        UnsupportedError, match="too small; precision='64-true' is none of its 32-true"
    ):
        make_trainer(strategy=strategy, sync_batchnorm=True, precision=64)


def two(self):
    """Return two optimizers."""
    return [torch.optim.SGD([p], lr=1.0) for p in list(self.parameters())[:2]]


@pytest.mark.parametrize(
    ("capability", "stage", "methods"),
    [
        (Capability.MANUAL_OPTIMIZATION, "fit", {"automatic_optimization": False}),
        (Capability.CUSTOM_OPTIMIZER_STEP, "fit", {"optimizer_step": lambda self, *args: None}),
        (Capability.GRADIENTS_VISIBLE, "fit", {"on_after_backward": lambda self: None}),
        (
            Capability.MULTIPLE_OPTIMIZERS,
            "fit",
            {"automatic_optimization": False, "configure_optimizers": two},
        ),
        (Capability.EVALUATION, "validate", {}),
        (Capability.EVALUATION, "test", {}),
        (Capability.PREDICTION, "predict", {}),
    ],
)
def test_what_a_strategy_declares_is_refused_when_a_module_needs_it(
    boring, make_trainer, capability, stage, methods
):
    trainer = make_trainer(strategy=refusing(capability))
    with pytest.raises(UnsupportedError, match=f"needs {capability.value}.*: it is too small"):
        getattr(trainer, stage)(boring.regression(**methods), boring.loader())


def test_data_without_a_length_may_be_refused(boring, make_trainer):
    trainer = make_trainer(strategy=refusing(Capability.ITERABLE_DATASETS))
    with pytest.raises(
        UnsupportedError, match="the data of train needs data sets without a length"
    ):
        trainer.fit(boring.regression(), boring.Stream(boring.loader()))


def test_a_trainer_can_be_sent_to_another_process_without_its_run(boring, make_trainer):
    trainer = make_trainer(callbacks=ModelCheckpoint(monitor="loss"))
    trainer.fit(boring.regression(), boring.loader())
    again = pickle.loads(pickle.dumps(trainer))
    assert again.session is None
    assert again.global_step == 5
    assert again.checkpoint_callback.best_model_path == trainer.checkpoint_callback.best_model_path


def test_a_module_knows_its_trainer_while_it_runs(boring, make_trainer):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(
                (pl_module.trainer is trainer, pl_module.global_step, pl_module.current_epoch)
            )

    module = boring.regression()
    make_trainer(callbacks=Watch(), limit_train_batches=2, max_epochs=2).fit(
        module, boring.loader()
    )
    assert seen == [(True, 1, 0), (True, 2, 0), (True, 3, 1), (True, 4, 1)]
    assert module._trainer is None
