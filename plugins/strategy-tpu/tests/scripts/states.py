"""Links of chains of runs, each resumed from what another has written, under XLA and on the processor.

python states.py STRATEGY DEVICES
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from problems import BATCH, OUT, Regression, Save, leave, loader, quiet, state_of

from torchrelay.tree import flatten

HALF = 10
"""Updates before the checkpoint: in the middle of the second epoch of three."""


divided: dict[str, dict[str, bool]] = {}
"""Run -> which parameters XLA had divided at its end, with all that belongs to them."""


def whole(accelerator: str, strategy: str, devices: int, name: str, **options: Any) -> Any:
    torch.manual_seed(2)
    module = Regression(**options)
    trainer = quiet(
        strategy=strategy,
        accelerator=accelerator,
        devices=devices,
        max_epochs=3,
        callbacks=[Save(OUT / f"{name}.ckpt", HALF)],
    )
    trainer.fit(module, _loader(strategy, devices))
    divided[name] = module.divided
    return state_of(module)


def rest(accelerator: str, strategy: str, devices: int, name: str, **options: Any) -> Any:
    torch.manual_seed(77)
    module = Regression(**options)
    trainer = quiet(strategy=strategy, accelerator=accelerator, devices=devices, max_epochs=3)
    trainer.fit(module, _loader(strategy, devices), ckpt_path=OUT / f"{name}.ckpt")
    divided[f"{name}, resumed"] = module.divided
    return state_of(module)


def _loader(strategy: str, devices: int) -> Any:
    # The order is drawn where there is one device throughout: replicas would share out another one.
    shuffle = sys.argv[2] == "1"
    return loader(batch=BATCH // (devices if strategy == "tpu_spawn" else 1), shuffle=shuffle)


def main(strategy: str, devices: int) -> None:
    here, there = ("tpu", strategy, devices), ("cpu", "single_device", 1)
    found = {"whole": whole(*here, "here"), "resumed": rest(*here, "here")}
    found["divided"] = divided["here"], divided["here, resumed"]
    found["dropout"] = whole(*here, "dropout", dropout=0.5)
    found["dropout, resumed"] = rest(*here, "dropout", dropout=0.5)
    found["to the processor"] = rest(*there, "here")
    found["on the processor"] = whole(*there, "there")
    found["from the processor"] = rest(*here, "there")
    leaves, _ = flatten(torch.load(OUT / "here.ckpt"))
    found["devices"] = {each.device.type for each in leaves if isinstance(each, torch.Tensor)}
    leave("states", found)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
