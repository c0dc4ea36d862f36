"""`torchrelay explain`: what a Trainer with these arguments would choose here, and why.

Imports neither torch nor a strategy, unless `--build` asks for it: what only these can refuse is known then.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any

from torchrelay.environments.program import is_interactive
from torchrelay.plugin.registry import get_registry
from torchrelay.trainer.resolve import Machine, Request, Resolution, resolve


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "show what a Trainer would choose here, and why"
    parser = commands.add_parser(
        "explain",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. The options are the Trainer's arguments.",
    )
    for option, meaning in (
        ("strategy", "alias, or distribution:alias"),
        ("accelerator", "auto, cpu, gpu, cuda, mps, or what a plugin names"),
        ("devices", "a number, auto, -1 for all, or indices such as 0,2"),
        ("num-nodes", "number of machines"),
    ):
        parser.add_argument(
            f"--{option}", default="auto", metavar=option[0].upper(), help=f"{meaning} (auto)"
        )
    parser.add_argument("--precision", metavar="P", help="such as bf16-mixed (32-true)")
    parser.add_argument(
        "--build",
        action="store_true",
        help="also build the strategy, which imports torch and the SDK, to hear what it refuses",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the choices, or the JSON.

    Raises:
        UserError: what is asked for cannot be had; the message is the Trainer's.
    """
    nodes = arguments.num_nodes
    request = Request(
        strategy=arguments.strategy,
        accelerator=arguments.accelerator,
        devices=arguments.devices,
        num_nodes=int(nodes) if nodes.removeprefix("-").isdecimal() else nodes,
        precision=arguments.precision,
    )
    machine = Machine(environ=os.environ, interactive=is_interactive())
    resolution = resolve(request, get_registry(), machine)
    if arguments.build:
        _build(resolution)
    resolution.check_environment()
    if arguments.json:
        print(json.dumps(as_data(resolution), indent=2))
    else:
        print(resolution.explain())
    return 0


def _build(resolution: Resolution) -> None:
    """Do what else a Trainer does before anything is started."""
    from torchrelay.trainer.build import build
    from torchrelay.trainer.needs import refuse_unsupported
    from torchrelay.trainer.options import Options

    refuse_unsupported(build(resolution, get_registry()), Options())


def as_data(resolution: Resolution) -> dict[str, Any]:
    """The choices as plain data. They were made from names, so strategy and precision are offers."""
    strategy: Any = resolution.strategy
    precision: Any = resolution.precision
    return {
        "accelerator": resolution.accelerator.name,
        "cluster_environment": resolution.cluster_environment.name,
        "num_nodes": resolution.num_nodes,
        "devices": list(resolution.devices),
        "strategy": strategy.spec.alias,
        "distribution": strategy.owner.distribution,
        "precision": precision.spec.name,
        "reasons": list(resolution.reasons),
    }
