"""Saves and loads the state of DeepSpeed engines in one program, and leaves what came out of it.

usage: states.py resume|chain|first|native|one
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from engines import (
    OUT,
    Model,
    end,
    engine_of,
    optimizer_of,
    share,
    start,
    train,
    train_alone,
)

from torchrelay.checkpoint import from_names, to_names
from torchrelay_deepspeed import state as states

KINDS = [
    *({"stage": stage, "precision": p} for stage in (0, 1, 2, 3) for p in ("32", "bf16", "16")),
    *({"stage": stage, "optimizer": "sgd"} for stage in (0, 1, 2, 3)),
    *({"stage": stage, "optimizer": "cpuadam", "offload": "optimizer"} for stage in (1, 2, 3)),
    {"stage": 3, "optimizer": "cpuadam", "offload": "parameters", "precision": "bf16"},
    {"stage": 2, "offload": "optimizer"},
    {"stage": 1, "precision": "bf16", "data_types": {"grad_accum_dtype": "fp32"}},
    {"stage": 2, "zero": {"round_robin_gradients": True}},
    {"stage": 3, "zero": {"sub_group_size": 16}},
    *(
        {"stage": stage, "precision": p, "inside": True}
        for stage, p in [(0, "bf16"), (2, "32"), (3, "32")]
    ),
]


def name_of(kind):
    words = [*kind.values(), *(kind.get("zero") or {}), *(kind.get("data_types") or {})]
    return "-".join(str(word) for word in words if not isinstance(word, dict))


def made(kind):
    """A fresh engine, whose weights are not those that it is to load."""
    torch.manual_seed(1)
    model = Model()
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.add_(0.3)
    return engine_of(**kind, model=model)


def snapshot(engine, groups):
    """The whole state of an engine, on every rank."""
    module = engine.users_module
    return share(
        {
            "weights": states.full_weights(engine, module),
            "optimizer": states.full_optimizer_state(engine, module, groups),
            "scale": states.loss_scale_state(engine),
        }
    )


def take_up(engine, groups, saved):
    states.load_full_weights(engine, saved["weights"], engine.users_module)
    states.load_full_optimizer_state(engine, saved["optimizer"], engine.users_module, groups)
    states.load_loss_scale(engine, saved["scale"])


def resume():
    """Each kind: six updates; three, saved and loaded by another engine, and three more."""
    results = {}
    for kind in KINDS:
        engine, groups = engine_of(**kind)
        train(engine, 0, 3)
        saved = snapshot(engine, groups)
        train(engine, 3, 6)
        whole = snapshot(engine, groups)
        engine.destroy()
        engine, groups = made(kind)
        take_up(engine, groups, saved)
        loaded = snapshot(engine, groups)
        train(engine, 3, 6)
        results[name_of(kind)] = {
            "saved": saved,
            "loaded": loaded,
            "whole": whole,
            "resumed": snapshot(engine, groups),
        }
        engine.destroy()
    end(**results)


def chain():
    """torch alone, then each stage, then torch alone: two updates by each, the state handed on."""
    results = {}
    for name, ours in [("sgd", "sgd"), ("adam", "adam"), ("adamw", "cpuadam")]:
        model = Model()
        optimizer = optimizer_of(model, name)
        train_alone(model, optimizer, 0, 12)
        whole = {"weights": model.state_dict(), "optimizer": named(model, optimizer)}
        model = Model()
        optimizer = optimizer_of(model, name)
        train_alone(model, optimizer, 0, 2)
        saved = {"weights": model.state_dict(), "optimizer": named(model, optimizer), "scale": {}}
        for place, stage in enumerate((3, 1, 2, 0)):
            offload = "optimizer" if ours == "cpuadam" and stage else None
            engine, groups = made({"stage": stage, "optimizer": ours, "offload": offload})
            take_up(engine, groups, saved)
            train(engine, 2 * place + 2, 2 * place + 4)
            saved = snapshot(engine, groups)
            engine.destroy()
        model = Model()
        optimizer = optimizer_of(model, name)
        model.load_state_dict(saved["weights"])
        names = {p: n for n, p in model.named_parameters()}
        optimizer.load_state_dict(from_names(optimizer, saved["optimizer"], names))
        train_alone(model, optimizer, 10, 12)
        chained = {"weights": model.state_dict(), "optimizer": named(model, optimizer)}
        results[name] = {"whole": whole, "chained": chained}
    end(**results)


def named(model, optimizer):
    return to_names(optimizer, {p: n for n, p in model.named_parameters()})


def first():
    """States without a step, of unequal steps, of another model, and the step that DeepSpeed makes by itself."""
    results = {}
    for stage in (0, 1, 2, 3):
        engine, groups = engine_of(stage)
        fresh = snapshot(engine, groups)
        train(engine, 0, 2)
        take_up(engine, groups, fresh)
        back = snapshot(engine, groups)
        train(engine, 0, 2)
        results[f"fresh-{stage}"] = {"fresh": fresh, "back": back}
        uneven = snapshot(engine, groups)["optimizer"]
        uneven["state"]["first.bias"]["step"] = torch.tensor(1.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            states.load_full_optimizer_state(engine, uneven, groups=groups)
        results[f"uneven-{stage}"] = [str(each.message) for each in caught]
        results[f"wrong-{stage}"] = wrong(engine, groups)
        engine.destroy()
    for name in ("left", "undone", "stage 1"):
        kind = {"stage": int(name == "stage 1"), "precision": "bf16", "optimizer": "adamw"}
        engine, groups = engine_of(**kind, undo=name == "undone")
        results[name] = [snapshot(engine, groups)]
        train(engine, 0, 1)
        results[name].append(snapshot(engine, groups))
        engine.destroy()
    end(**results)


def wrong(engine, groups):
    """The messages for states that do not fit."""
    whole = snapshot(engine, groups)
    weights, optimizer = whole["weights"], whole["optimizer"]
    attempts = {
        "shape": lambda: states.load_full_weights(
            engine, {**weights, "first.bias": torch.zeros(3)}
        ),
        "missing": lambda: states.load_full_weights(
            engine, {n: v for n, v in weights.items() if n != "first.bias"}
        ),
        "loose": lambda: states.load_full_weights(
            engine, {n: v for n, v in weights.items() if n != "first.bias"}, strict=False
        ),
        "moment": lambda: states.load_full_optimizer_state(
            engine,
            {
                **optimizer,
                "state": {**optimizer["state"], "first.bias": {"exp_avg": torch.zeros(3)}},
            },
            groups=groups,
        ),
    }
    messages = {}
    for name, attempt in attempts.items():
        try:
            attempt()
        except Exception as error:
            messages[name] = f"{type(error).__name__}: {error}"
    return messages


def native():
    """Each kind: saved sharded after three updates, loaded by another engine of as many processes."""
    results = {}
    for kind in KINDS:
        folder = Path(OUT) / "native" / name_of(kind)
        engine, groups = engine_of(**kind)
        train(engine, 0, 3)
        states.save_native(
            engine, folder, {"epoch": 1, "loops": {"batch": 3}}, engine.users_module, groups
        )
        saved = snapshot(engine, groups)
        train(engine, 3, 6)
        whole = snapshot(engine, groups)
        engine.destroy()
        engine, groups = made(kind)
        kept = states.load_native(engine, folder, engine.users_module, groups)
        loaded = snapshot(engine, groups)
        train(engine, 3, 6)
        results[name_of(kind)] = {
            "saved": saved,
            "loaded": loaded,
            "whole": whole,
            "resumed": snapshot(engine, groups),
            "kept": kept,
            "counts": (engine.global_steps, engine.skipped_steps),
        }
        engine.destroy()
    end(**results)


def one():
    """One process takes up what two have left in `FROM`, at the same stage and at another."""
    results = {}
    for kind in KINDS:
        folder = Path(os.environ["FROM"]) / "native" / name_of(kind)
        other = {**kind, "stage": {0: 3, 1: 2, 2: 0, 3: 1}[kind["stage"]], "offload": None}
        for target in (kind, other):
            if target.get("data_types") and target["stage"] != 1:
                continue  # no other stage takes them
            engine, groups = made(target)
            kept = states.load_native(engine, folder, engine.users_module, groups)
            loaded = snapshot(engine, groups)
            train(engine, 3, 6)
            results[f"{name_of(kind)} to {target['stage']}"] = {
                "loaded": loaded,
                "resumed": snapshot(engine, groups),
                "kept": kept,
                "counts": (engine.global_steps, engine.skipped_steps),
            }
            engine.destroy()
    end(**results)


if __name__ == "__main__":
    start()
    {"resume": resume, "chain": chain, "first": first, "native": native, "one": one}[sys.argv[1]]()
