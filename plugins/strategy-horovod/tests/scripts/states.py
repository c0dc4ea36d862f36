"""Run links of chains of runs, each resumed from what another has written, and leave what each arrived at.

python states.py DEVICES LINKS

LINKS is a file with a JSON object: the name of each link and what it is:

    strategy    see `problems.strategy_of`
    optimizer   one of `problems.OPTIMIZERS`
    steps       where to stop
    from        link that has written the checkpoint to resume from; a new run without

A link writes `NAME.ckpt` at its end.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from problems import BATCH, OUT, Regression, leave, loader, quiet, state_of, strategy_of

from torchrelay.callbacks import Callback


class Save(Callback):
    """Writes a checkpoint when training ends."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)


def run(name: str, link: dict[str, Any], devices: int) -> dict[str, Any]:
    """What this rank arrived at."""
    # A checkpoint has to bring everything: what is resumed begins from other weights.
    torch.manual_seed(4 if "from" in link else 3)
    module = Regression(link["optimizer"])
    trainer = quiet(
        strategy=strategy_of(link["strategy"]),
        devices=devices,
        max_steps=link["steps"],
        precision="64-true",
        callbacks=[Save(OUT / f"{name}.ckpt")],
    )
    begun = OUT / f"{link['from']}.ckpt" if "from" in link else None
    trainer.fit(module, loader(BATCH // devices), ckpt_path=begun)
    return {"rank": trainer.global_rank, "state": state_of(module), "steps": trainer.global_step}


def main(devices: int, links: dict[str, Any]) -> None:
    outcomes = {}
    for name, link in links.items():
        sys.stderr.write(f"{name}\n")
        outcomes[name] = run(name, link, devices)
    leave(f"states-{devices}", outcomes[next(iter(outcomes))]["rank"], outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
