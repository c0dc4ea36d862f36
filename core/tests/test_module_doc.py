"""In which order a module's methods are called: the listing in docs/module.md is what is recorded here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import StepLR

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.data_hooks import DataHooks
from torchrelay.module import LightningModule, ModuleHooks

DOC = Path(__file__).parents[2] / "docs" / "module.md"

OWN = (
    "training_step",
    "validation_step",
    "configure_optimizers",
    "configure_model",
    "configure_gradient_clipping",
    "backward",
    "optimizer_step",
    "optimizer_zero_grad",
    "lr_scheduler_step",
    "on_validation_model_eval",
    "on_validation_model_train",
)
NAMES = (
    *OWN,
    *(n for base in (ModuleHooks, DataHooks) for n in vars(base) if callable(vars(base)[n])),
)


def recorded(name: str, method: Any, lines: list[str], depth: list[int]) -> Any:
    def call(self: LightningModule, *args: Any) -> Any:
        lines.append("    " * depth[0] + name)
        depth[0] += 1
        result = method(self, *args)
        depth[0] -= 1
        return result

    return call


def listing() -> list[str]:
    [text] = re.findall(
        r"```text\n(prepare_data.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL
    )
    return [line.partition("#")[0].rstrip() for line in text.splitlines()]


def test_the_listing_is_what_happens(boring, make_trainer, tmp_path):
    lines: list[str] = []
    depth = [0]

    class Net(boring.Regression):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            return [optimizer], [{"scheduler": StepLR(optimizer, 1), "interval": "step"}]

        def train_dataloader(self):
            return boring.loader(8)

        def val_dataloader(self):
            return boring.loader(4)

    methods = {name: recorded(name, getattr(Net, name), lines, depth) for name in NAMES}
    module = type("Recorder", (Net,), methods)()
    trainer = make_trainer(
        accumulate_grad_batches=2,
        num_sanity_val_steps=0,
        callbacks=ModelCheckpoint(dirpath=tmp_path, filename="one"),
    )
    trainer.fit(module)
    assert lines == listing()
    lines.clear()
    again = make_trainer(max_epochs=1)
    again.fit(type("Recorder", (Net,), methods)(), ckpt_path=tmp_path / "one.ckpt")
    assert lines.index("configure_model") + 1 == lines.index("on_load_checkpoint")
    assert lines.index("on_load_checkpoint") + 1 == lines.index("configure_optimizers")


def test_every_method_that_can_be_overridden_is_named():
    text = DOC.read_text(encoding="utf-8")
    assert [name for name in NAMES if name not in text] == []
