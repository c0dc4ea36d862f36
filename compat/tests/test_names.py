"""Every public name of Lightning's Trainer and modules is here too, or is left out for a reason."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from torchrelay.arguments import RETIRED

DOCUMENT = Path(__file__).parents[2] / "docs" / "lightning.md"

OURS = "has another form here"
LEFT_OUT = {
    "Trainer": {
        "distributed_sampler_kwargs": "strategy.sampler_arguments",
        "fit_loop": OURS,
        "init_module": "configure_model, which takes the precision's format",
        "predict_loop": OURS,
        "received_sigterm": "the run is saved and ends",
        "scaler": "precision_plugin",
        "test_loop": OURS,
        "val_check_batch": OURS,
        "validate_loop": OURS,
        "model_registry": "Lightning's cloud",
        "storage_options": "CheckpointIO",
    },
    "LightningModule": {
        "configure_sharded_model": "configure_model",
        "device_mesh": "the strategy's",
        "fabric": "no Fabric",
        "on_validation_model_zero_grad": "gradients are not touched by validation",
        "strict_loading": "load_from_checkpoint(strict=...)",
        "to_onnx": "torch.onnx.export(module, ...)",
        "to_tensorrt": "torch_tensorrt.compile(module, ...)",
        "to_torchscript": "torch.export.export(module, ...)",
        "remove_ignored_hparams": OURS,
    },
    "LightningDataModule": {"name": OURS, "remove_ignored_hparams": OURS},
    "Callback": {},
}
PRIVATE = "_|CHECKPOINT_HYPER_PARAMS"


def names(kind: type, instance: Any = None) -> set[str]:
    found = {*dir(kind), *(vars(instance) if instance is not None else ())}
    if kind.__name__ == "Trainer":
        for method in ("__init__", "fit", "validate", "test", "predict", "save_checkpoint"):
            found |= set(inspect.signature(getattr(kind, method)).parameters)
    return {name for name in found if not re.match(PRIVATE, name)}


@pytest.mark.filterwarnings("ignore::UserWarning:lightning")
@pytest.mark.parametrize("kind", LEFT_OUT)
def test_every_public_name_is_here(libraries, make_trainer, kind):
    theirs, ours = (
        names(getattr(each, kind), make_trainer(each) if kind == "Trainer" else None)
        for each in (libraries["lightning"], libraries["torchrelay"])
    )
    assert theirs - ours == set(LEFT_OUT[kind])


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_the_document_names_what_is_left_out(kind):
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in LEFT_OUT[kind] if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    "method", ["__init__", "fit", "validate", "test", "predict", "save_checkpoint"]
)
def test_every_argument_is_here_or_answered(libraries, method):
    theirs, ours = (
        {*inspect.signature(getattr(libraries[name].Trainer, method)).parameters}
        for name in ("lightning", "torchrelay")
    )
    answered = RETIRED.get("Trainer" if method == "__init__" else f"Trainer.{method}", {})
    assert theirs - ours <= set(answered)


def test_what_scripts_import_is_here():
    import torchrelay
    from torchrelay import callbacks, loggers, utilities

    assert {
        "CombinedLoader",
        "grad_norm",
        "rank_zero_info",
        "rank_zero_only",
        "rank_zero_warn",
    } <= set(dir(utilities))
    assert {
        "Trainer",
        "LightningModule",
        "LightningDataModule",
        "Callback",
        "seed_everything",
    } <= set(dir(torchrelay))
    assert "ModelCheckpoint" in dir(callbacks)
    assert "TensorBoardLogger" in dir(loggers)
