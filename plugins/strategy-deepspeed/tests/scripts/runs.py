"""Run cases one after the other, in so many processes, and leave what this rank arrived at in each.

python runs.py DEVICES CASES [engine]

CASES is a file with a JSON object: the name of each case and what it is:

    module      class of `problems`, and its `arguments`; `alone` are further ones where one process runs it
    strategy    an alias, or DeepSpeed's configuration; a list of several for as many fits of one module
    trainer     arguments of the Trainer
    do          what to call, `["fit"]` unless said
    several     true where validation has two data loaders
    refused     true where every rank is to be refused; another refusal ends the program
    save        name under which a checkpoint is left after half of the steps
    resume      name of one that an earlier case has left, to begin from

One process alone trains on the CPU in fp32, on the whole of each batch; unless it is told to use the engine too.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import problems
import torch
from problems import BATCH, OUT, STEPS, leave, loader, quiet, state_of

from torchrelay.callbacks import ModelCheckpoint
from torchrelay.errors import UserError

HALF = STEPS // 2
PLACES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


def strategy_of(asked: Any) -> Any:
    """An alias as it is; a configuration as a strategy."""
    if isinstance(asked, str):
        return asked
    from torchrelay_deepspeed import DeepSpeedStrategy

    options = dict(asked)
    return DeepSpeedStrategy(options.pop("config"), **options)


def allow_fp16() -> None:
    """Have torchrelay and DeepSpeed take this CPU for one with AVX512-FP16; torch computes in fp16 without, slowly."""
    import torchrelay_deepspeed.strategy as strategies
    from torchrelay_deepspeed import vendor

    make = vendor._accelerator

    def accelerator(device_type: str) -> Any:
        made = make(device_type)
        made.is_fp16_supported = lambda: True
        return made

    vendor._accelerator = accelerator
    strategies.cpu_has_fp16 = lambda: True


def saving(name: str | None) -> dict[str, Any]:
    """Arguments of a Trainer that leaves a checkpoint after half of the steps."""
    if name is None:
        return {}
    where = {"dirpath": OUT, "filename": f"{name}-{{step}}", "auto_insert_metric_name": False}
    keeper = ModelCheckpoint(every_n_train_steps=HALF, save_top_k=-1, **where)
    return {"callbacks": [keeper], "enable_checkpointing": True}


def left_behind(module: Any, environ: dict[str, str | None]) -> dict[str, Any]:
    """What a run has left in the module and in the process."""
    marks = [n for part in module.modules() for n in vars(part) if n.startswith("ds_")]
    tensors = [*module.parameters(), *module.buffers()]
    pickled = pickle.loads(pickle.dumps(module))
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(module), buffer)
    return {
        "marks": marks + [n for p in module.parameters() for n in vars(p)],
        "gradients": [p.grad for p in module.parameters() if p.grad is not None],
        "devices": {t.device.type for t in tensors},
        "dtypes": {t.dtype for t in tensors if t.is_floating_point()},
        "containers": {type(part._parameters) for part in module.modules()},
        "hooks": [
            hook
            for part in module.modules()
            for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())
        ],
        "outputs": [m(torch.ones(1, 8)).detach() for m in (module.eval(), pickled.eval())],
        "environment": {n: os.environ.get(n) for n in PLACES} == environ,
        "connected": torch.distributed.is_initialized(),
    }


def run(case: dict[str, Any], devices: int, alone: bool) -> dict[str, Any]:
    """What this rank arrived at in a case."""
    environ = {name: os.environ.get(name) for name in PLACES}
    torch.manual_seed(3)
    arguments = {**case.get("arguments", {}), **(case.get("alone", {}) if alone else {})}
    module = getattr(problems, case["module"])(**arguments)
    result: dict[str, Any] = {"initial": state_of(module)}
    asked, batch = case["strategy"], BATCH // devices
    try:
        for each in asked if isinstance(asked, list) else [asked]:
            options = {"max_steps": STEPS, **case.get("trainer", {})}
            options.setdefault("devices", devices)
            if alone:
                options |= {
                    "strategy": "single_device",
                    "num_nodes": 1,
                    "precision": "32-true",
                    "accelerator": "cpu",
                }
            else:
                options["strategy"] = strategy_of(each)
            trainer = quiet(**options, **saving(None if alone else case.get("save")))
            for what in case.get("do", ["fit"]):
                quietly: dict[str, Any] = {"verbose": False} if what in ("validate", "test") else {}
                if what == "fit" and "resume" in case and not alone:
                    quietly["ckpt_path"] = OUT / f"{case['resume']}-{HALF}.ckpt"
                several = what == "validate" and case.get("several")
                loaders = [loader(batch), loader(batch)] if several else loader(batch)
                result[what] = getattr(trainer, what)(module, loaders, **quietly)
            result |= {
                "rank": trainer.global_rank,
                "steps": trainer.global_step,
                "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
                "optimizer": [type(o).__name__ for o in trainer.optimizers],
            }
    except UserError as error:
        if not case.get("refused"):
            raise
        return {"refused": str(error), "connected": torch.distributed.is_initialized()}
    return {
        **result,
        "state": state_of(module),
        "facts": dict(module.facts),
        "left": left_behind(module, environ),
    }


def main(devices: int, cases: dict[str, Any], engine: bool) -> None:
    outcomes: dict[str, Any] = {}
    if devices > 1 or engine:
        allow_fp16()
    for name, case in cases.items():
        begun = time.monotonic()
        try:
            outcomes[name] = run(case, devices, alone=devices == 1 and not engine)
        except Exception:
            sys.stderr.write(f"in the case {name!r}:\n")
            raise
        outcomes[name]["seconds"] = time.monotonic() - begun
    leave(
        f"runs-{'engine' if engine else devices}",
        outcomes[next(iter(outcomes))].get("rank", 0),
        outcomes,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), "engine" in sys.argv)
