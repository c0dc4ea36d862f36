"""The canonical form of a checkpoint, whatever strategy made it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any, TypedDict

import torch

from torchrelay.errors import CheckpointError
from torchrelay.plugin.installing import install_newer_core

SCHEMA_VERSION = 1
"""The version of the form below that this torchrelay writes; it reads this one and all before."""

MANIFEST = "torchrelay"
"""The key of the manifest. Files of Lightning have none, and are read all the same."""


class Checkpoint(TypedDict, total=False):
    """What a checkpoint holds: tensors and plain data, so that it loads with `weights_only=True`.

    Attributes:
        state_dict: the module's parameters and buffers, by name.
        optimizer_states: one for each optimizer, by parameter name (`optimizer_names.to_names`); integer keys,
            as in torch, are accepted.
        lr_schedulers: one for each scheduler.
        epoch: epochs completed.
        global_step: updates made.
        loops: where the loops stand.
        callbacks: state of each callback, by its key.
        hyper_parameters: arguments of the module's constructor.
        precision: state of the precision; empty if it has none.
        rng: under "ranks", the random number generators (`rng.capture`) of each rank: now, and when the epoch began.
        metrics: under "ranks", what was logged.
        loaders: under "ranks", the place of the training data, where its loader says it.
        torchrelay: the manifest (`make_manifest`).
    """

    state_dict: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]
    epoch: int
    global_step: int
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    hyper_parameters: dict[str, Any]
    precision: dict[str, Any]
    rng: dict[str, Any]
    metrics: dict[str, Any]
    loaders: dict[str, Any]
    torchrelay: dict[str, Any]


def make_manifest(
    *,
    strategy: str,
    alias: str | None = None,
    distribution: str | None = None,
    distribution_version: str | None = None,
    world_size: int = 1,
) -> dict[str, Any]:
    """Tell what wrote a checkpoint, when, and in which version of the form.

    Args:
        strategy: qualified name of the strategy's class.
        alias: what the user asked for; None for a strategy instance.
        distribution: name of the distribution that brought the strategy.
        distribution_version: its version.
        world_size: number of processes.
    """
    return {
        "schema": SCHEMA_VERSION,
        "torchrelay": version("torchrelay"),
        "torch": str(torch.__version__),
        "strategy": strategy,
        "alias": alias,
        "distribution": distribution,
        "distribution_version": distribution_version,
        "world_size": world_size,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def check_manifest(
    checkpoint: Mapping[str, Any], newest: int = SCHEMA_VERSION
) -> dict[str, Any] | None:
    """Refuse a checkpoint that this torchrelay cannot read, and return its manifest.

    Args:
        checkpoint: what was read.
        newest: the last version of the form that can be read.

    Returns:
        None for a checkpoint without manifest, such as Lightning's.

    Raises:
        CheckpointError: it holds no model, or a later torchrelay wrote it.
    """
    if not isinstance(checkpoint.get("state_dict"), Mapping):
        raise CheckpointError(
            f"this is no checkpoint: it has no 'state_dict', only {_some(checkpoint)}; to load bare weights "
            "into a module, use module.load_state_dict(torch.load(path))"
        )
    manifest = checkpoint.get(MANIFEST)
    if manifest is None:
        return None
    schema, writer = manifest.get("schema"), manifest.get("torchrelay")
    if not isinstance(schema, int) or not 1 <= schema <= newest:
        raise CheckpointError(
            f"torchrelay {writer} wrote the checkpoint in form {schema}, and torchrelay {version('torchrelay')} "
            f"reads forms 1 to {newest}; {install_newer_core(str(writer))}"
        )
    return dict(manifest)


def _some(checkpoint: Mapping[str, Any]) -> str:
    keys = [repr(key) for key in checkpoint]
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "") if keys else "nothing"
