"""Run cases one after the other, in so many processes, and leave what this rank arrived at in each.

python runs.py DEVICES CASES

CASES is a file with a JSON object: the name of each case and what it is:

    module      class of `problems`, and its `arguments`
    strategy    an alias, or options of HorovodStrategy; a list of several for as many fits of one module
    trainer     arguments of the Trainer
    do          what to call, `["fit"]` unless said
    each_alone  true where each gradient is to travel by itself; small as these modules are, all would travel together
    refused     true where every rank is to be refused; another refusal ends the program

One process alone trains by `single_device`, on the whole of each batch.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import problems
import torch
from problems import BATCH, STEPS, leave, loader, quiet, state_of, strategy_of

from torchrelay.errors import UserError
from torchrelay_horovod import groups


class Told(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def left_behind(module: Any) -> dict[str, Any]:
    """What a run has left in the module and in the process."""
    from torchrelay_horovod import vendor

    pickle.loads(pickle.dumps(copy.deepcopy(module)))
    return {
        "hooks": [p for p in module.parameters() if p._post_accumulate_grad_hooks],
        "kinds": {type(p) for p in module.parameters()},
        "connected": vendor.is_started() or torch.distributed.is_initialized(),
    }


def run(case: dict[str, Any], devices: int) -> dict[str, Any]:
    """What this rank arrived at in a case."""
    # Each rank draws weights of its own: the strategy has to give all rank 0's.
    torch.manual_seed(3 if devices == 1 else 3 + int(problems.os.environ.get("HOROVOD_RANK", "0")))
    module = getattr(problems, case["module"])(**case.get("arguments", {}))
    result: dict[str, Any] = {"initial": state_of(module)}
    asked = case.get("strategy", "horovod")
    told = Told()
    logging.getLogger("torchrelay").addHandler(told)
    logging.getLogger("torchrelay").setLevel(logging.INFO)
    try:
        for each in asked if isinstance(asked, list) else [asked]:
            options = {"max_steps": STEPS, **case.get("trainer", {}), "devices": devices}
            options["strategy"] = "single_device" if devices == 1 else strategy_of(each)
            trainer = quiet(**options)
            for what in case.get("do", ["fit"]):
                quietly = {"verbose": False} if what == "validate" else {}
                result[what] = getattr(trainer, what)(module, loader(BATCH // devices), **quietly)
            result |= {
                "rank": trainer.global_rank,
                "steps": trainer.global_step,
                "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
                "optimizers": [type(o).__name__ for o in trainer.optimizers],
            }
    except UserError as error:
        if not case.get("refused"):
            raise
        return {"refused": str(error), **left_behind(module)}
    finally:
        logging.getLogger("torchrelay").removeHandler(told)
    return {
        **result,
        "state": state_of(module),
        "facts": dict(module.facts),
        "told": told.lines,
        "gradients": [
            p.grad is not None and bool(p.grad.to_dense().any()) for p in module.parameters()
        ],
        "left": left_behind(module),
    }


def main(devices: int, cases: dict[str, Any]) -> None:
    outcomes: dict[str, Any] = {}
    for name, case in cases.items():
        begun = time.monotonic()
        try:
            with patch.object(groups, "SIZE", 1 if case.get("each_alone") else groups.SIZE):
                outcomes[name] = run(case, devices)
        except Exception:
            sys.stderr.write(f"in the case {name!r}:\n")
            raise
        outcomes[name]["seconds"] = time.monotonic() - begun
    leave(f"runs-{devices}", outcomes[next(iter(outcomes))]["rank"], outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
