"""Run links of chains of runs, each resumed from what another has written, and leave what each arrived at.

python states.py DEVICES LINKS

LINKS is a file with a JSON object: the name of each link and what it is:

    strategy    see `problems.strategy_of`
    steps       where to stop
    from        link that has written the checkpoint to resume from; a new run without
    module      class of `problems`, and its `arguments`; Regression with adamw unless said
    refused     true where resuming is to be refused

A link writes `NAME.ckpt` at its end.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import problems
import torch
from problems import BATCH, OUT, leave, loader, quiet, state_of, strategy_of

from torchrelay.callbacks import Callback
from torchrelay.errors import UserError


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
    arguments = link.get("arguments", {"optimizer": "adamw"})
    module = getattr(problems, link.get("module", "Regression"))(**arguments)
    trainer = quiet(
        strategy=strategy_of(link["strategy"]),
        devices=devices,
        max_steps=link["steps"],
        callbacks=[Save(OUT / f"{name}.ckpt")],
    )
    begun = OUT / f"{link['from']}.ckpt" if "from" in link else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", ".*FairScale keeps one")
        try:
            trainer.fit(module, loader(BATCH // devices), ckpt_path=begun)
        except UserError as error:
            if not link.get("refused"):
                raise
            return {"rank": trainer.global_rank, "refused": str(error)}
    return {
        "rank": trainer.global_rank,
        "state": state_of(module),
        "steps": trainer.global_step,
        "told": [str(each.message) for each in caught],
    }


def main(devices: int, links: dict[str, Any]) -> None:
    outcomes = {}
    for name, link in links.items():
        sys.stderr.write(f"{name}\n")
        outcomes[name] = run(name, link, devices)
    leave(f"states-{devices}", outcomes[next(iter(outcomes))]["rank"], outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
