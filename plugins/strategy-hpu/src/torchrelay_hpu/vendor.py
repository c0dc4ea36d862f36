"""The only module that imports Habana's bridge, when a function here is called; its errors become torchrelay's.

`bridge`, `core`, `hpu`, `hccl`, `internal`, `loader`, `optimizers`, `normalization`, `engine`, `fp8` and `clipper` are
names of the bridge's objects alone: a test reads off every call made on them, and holds it against the recorded
signatures.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import nn

from torchrelay.errors import ConfigurationError, UnavailableError
from torchrelay_hpu.plugin import INSTALL, SDK

RENDEZVOUS = (
    "HLS_MODULE_ID",
    "ID",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
    "RANK",
    "WORLD_SIZE",
)
"""Variables that the bridge writes when it is imported, or told of the ranks."""


# --- what is installed ----------------------------------------------------------------------------------


def module(name: str = "") -> Any:
    """A module of the bridge, by its name below `habana_frameworks.torch`.

    Importing it writes an address into the environment, from which launchers and clusters are told; that is undone.

    Raises:
        UnavailableError: it is not there, lacks a library of the driver's (an OSError), fails as it registers (a
            RuntimeError), or is for another torch, which it asserts when it is imported.
    """
    full = f"habana_frameworks.torch{name and '.'}{name}"
    if full in sys.modules:  # asked for twice a step
        return sys.modules[full]
    before = environment()
    try:
        return import_module(full)
    except (ImportError, AssertionError, OSError, RuntimeError) as error:
        raise UnavailableError(
            f"habana_frameworks cannot be imported ({_line(error)}): {INSTALL}"
        ) from error
    finally:
        restore(before)


def load() -> None:
    """Import the bridge: the device `hpu` and the backend "hccl" are registered.

    Raises:
        ConfigurationError: the environment asks for another mode than the one that was decided by the import.
    """
    module()
    mode = os.environ.get("PT_HPU_LAZY_MODE", "1")
    if (mode != "0") != lazy():
        raise ConfigurationError(
            f"PT_HPU_LAZY_MODE={mode} was set after habana_frameworks was imported, which decides between lazy and "
            "eager mode once; set it before Python starts"
        )


def examined() -> str | None:
    """Whether the bridge can be used: None, or what is wrong and where the SDK is had."""
    if importlib.util.find_spec("habana_frameworks") is None:
        return f"habana-torch-plugin is not installed: {INSTALL}"
    try:
        bridge, loader = module(), module("utils.library_loader")
    except UnavailableError as error:
        return str(error)
    found = str(bridge.__version__)
    if found.partition("-")[0].partition("+")[0] != SDK:
        return f"habana-torch-plugin {found} is not the release that this package was written for: {INSTALL}"
    # Lightning 1.7.7 (src/pytorch_lightning/utilities/imports.py) calls it by the second name.
    there = (
        loader.is_habana_available()
        if hasattr(loader, "is_habana_available")
        else loader.is_habana_avaialble()
    )
    return None if there else f"hl-smi finds no HPU and its driver: {INSTALL}"


# --- modes and graphs -----------------------------------------------------------------------------------


def lazy() -> bool:
    """Whether operations are collected into graphs that are cut by hand."""
    internal = module("utils.internal")
    return bool(internal.is_lazy())


def mark_step() -> None:
    """Cut the graph here."""
    core = module("core")
    core.mark_step()


def in_graph(layer: nn.Module) -> None:
    """Let a module's forward be captured once for each shape, and run again; there is no such thing in eager mode."""
    hpu = module("hpu")
    hpu.wrap_in_hpu_graph(layer)


# --- the device -----------------------------------------------------------------------------------------


def device_name() -> str:
    """Which generation it is: "GAUDI" is the first."""
    hpu = module("hpu")
    return str(hpu.get_device_name())


def memory_stats() -> dict[str, Any]:
    """Figures of the device's memory."""
    hpu = module("hpu")
    return dict(hpu.memory_stats())


def random_state() -> list[torch.Tensor]:
    """The device's random state, in a list of one."""
    hpu = module("hpu")
    return list(hpu.get_rng_state_all())


def set_random_state(states: list[torch.Tensor]) -> None:
    """Set it, from a list of one."""
    hpu = module("hpu")
    hpu.set_rng_state_all(states)


# --- ranks ----------------------------------------------------------------------------------------------


def tell_ranks(world_size: int, rank: int, local_rank: int) -> None:
    """Let the bridge name this process's module, and write the ranks into the environment.

    Raises:
        ConfigurationError: HABANA_VISIBLE_MODULES names fewer than there are processes on this machine.
    """
    hccl = module("distributed.hccl")
    try:
        hccl.initialize_distributed_hpu(world_size=world_size, rank=rank, local_rank=local_rank)
    except AssertionError as error:
        raise ConfigurationError(
            f"HABANA_VISIBLE_MODULES={os.environ.get('HABANA_VISIBLE_MODULES')} names no module for local rank "
            f"{local_rank}; name as many as there are processes on a machine, or leave it out"
        ) from error


def environment() -> dict[str, str | None]:
    """The variables that the bridge may write; None for those that are not there."""
    return {name: os.environ.get(name) for name in RENDEZVOUS}


def restore(variables: dict[str, str | None]) -> None:
    """Put variables back as they were."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# --- fused operations -----------------------------------------------------------------------------------


def fused_adamw(groups: list[dict[str, Any]], options: dict[str, Any]) -> Any:
    """The bridge's AdamW, which updates all parameters in one operation."""
    optimizers = module("hpex.optimizers")
    return optimizers.FusedAdamW(groups, **options)


def is_fused_adamw(optimizer: Any) -> bool:
    """Whether an optimizer is the bridge's AdamW."""
    kind = type(optimizer)
    return kind.__name__ == "FusedAdamW" and kind.__module__.startswith("habana_frameworks.")


def fused_clip(parameters: Iterable[nn.Parameter], max_norm: float) -> Any:
    """The bridge's clipping by norm."""
    normalization = module("hpex.normalization")
    return normalization.FusedClipNorm(parameters, max_norm)


def clip_norm(clipper: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Clip the gradients of parameters in place."""
    clipper.clip_norm(parameters)


# --- fp8 ------------------------------------------------------------------------------------------------


def fp8_available() -> tuple[bool, str]:
    """Whether the device has 8-bit floats, and why not."""
    fp8 = module("hpex.experimental.transformer_engine.fp8")
    # Later releases have it in a class.
    there, reason = (
        fp8.is_fp8_available()
        if hasattr(fp8, "is_fp8_available")
        else fp8.FP8GlobalStateManager.is_fp8_available()
    )
    return bool(there), str(reason)


def fp8_autocast(recipe: Any) -> AbstractContextManager[Any]:
    """Context in which layers of the transformer engine compute in 8 bits."""
    engine = module("hpex.experimental.transformer_engine")
    context: AbstractContextManager[Any] = engine.fp8_autocast(enabled=True, fp8_recipe=recipe)
    return context


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
