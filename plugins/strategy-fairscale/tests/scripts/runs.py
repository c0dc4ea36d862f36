"""Run cases one after the other, in so many processes, and leave what this rank arrived at in each.

python runs.py DEVICES CASES [parallel]

CASES is a file with a JSON object: the name of each case and what it is:

    module      class of `problems`, and its `arguments`; `alone` are further ones where one process runs it
    strategy    an alias, or options (see `problems.strategy_of`); a list of several for as many fits of one module
    trainer     arguments of the Trainer
    do          what to call, `["fit"]` unless said
    refused     true where every rank is to be refused; another refusal ends the program

One process alone trains by `single_device` on the CPU in fp32, on the whole of each batch; unless it is told to be
parallel too.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import problems
import torch
from problems import BATCH, STEPS, leave, loader, quiet, state_of, strategy_of

from torchrelay.errors import UserError


def left_behind(module: Any) -> dict[str, Any]:
    """What a run has left in the module and in the process."""
    tensors = [*module.parameters(), *module.buffers()]
    copies = [copy.deepcopy(module)]
    if "checkpoint" not in getattr(module, "inner", ""):  # FairScale leaves a weak reference there
        copies.append(pickle.loads(pickle.dumps(module)))
    hooks = [
        hook
        for part in module.modules()
        for hook in (*part._state_dict_hooks.values(), *part._load_state_dict_pre_hooks.values())
    ]
    sample = torch.ones(1, 8, dtype=tensors[0].dtype)
    return {
        "wrappers": [
            n for n, part in module.named_modules() if "fairscale" in type(part).__module__
        ],
        "marks": [n for p in module.parameters() for n in vars(p)],
        "kinds": {type(p) for p in module.parameters()},
        "views": [n for part in module.modules() for n in vars(part) if n.startswith("_unflat")],
        "storages": [
            t.untyped_storage().nbytes()
            for t in tensors
            if t.untyped_storage().nbytes() != t.nbytes
        ],
        "devices": {t.device.type for t in tensors},
        "dtypes": {t.dtype for t in tensors if t.is_floating_point()},
        "backward hooks": [p for p in module.parameters() if p._backward_hooks],
        "hooks": hooks,
        "outputs": [
            each.eval()(sample).detach() for each in (module, *copies) if tensors[0].numel()
        ],
        "connected": torch.distributed.is_initialized(),
    }


def run(case: dict[str, Any], devices: int, alone: bool) -> dict[str, Any]:
    """What this rank arrived at in a case."""
    torch.manual_seed(3)
    arguments = {**case.get("arguments", {}), **(case.get("alone", {}) if alone else {})}
    module = getattr(problems, case["module"])(**arguments)
    result: dict[str, Any] = {"initial": state_of(module)}
    asked = case["strategy"]
    try:
        for each in asked if isinstance(asked, list) else [asked]:
            options = {"max_steps": STEPS, **case.get("trainer", {}), "devices": devices}
            if alone:
                options |= {
                    "strategy": "single_device",
                    "precision": "32-true",
                    "accelerator": "cpu",
                }
            else:
                options["strategy"] = strategy_of(each)
            trainer = quiet(**options)
            for what in case.get("do", ["fit"]):
                quietly = {"verbose": False} if what in ("validate", "test") else {}
                loaders = loader(BATCH // devices)
                several = what == "validate" and case.get("several")
                result[what] = getattr(trainer, what)(
                    module, [loaders, loaders] if several else loaders, **quietly
                )
            result |= {
                "rank": trainer.global_rank,
                "steps": trainer.global_step,
                "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
                "optimizers": [type(o).__name__ for o in trainer.optimizers],
            }
    except UserError as error:
        if not case.get("refused"):
            raise
        return {"refused": str(error), "connected": torch.distributed.is_initialized()}
    gradients = [p.grad is not None and bool(p.grad.any()) for p in module.parameters()]
    return {
        **result,
        "state": state_of(module),
        "facts": dict(module.facts),
        "gradients": gradients,
        "left": left_behind(module),
    }


def main(devices: int, cases: dict[str, Any], parallel: bool) -> None:
    outcomes: dict[str, Any] = {}
    for name, case in cases.items():
        begun = time.monotonic()
        try:
            outcomes[name] = run(case, devices, alone=devices == 1 and not parallel)
        except Exception:
            sys.stderr.write(f"in the case {name!r}:\n")
            raise
        outcomes[name]["seconds"] = time.monotonic() - begun
    rank = outcomes[next(iter(outcomes))].get("rank", 0)
    leave(f"runs-{'parallel' if parallel else devices}", rank, outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), "parallel" in sys.argv)
