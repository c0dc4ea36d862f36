"""The only module that imports torch-xla, when a function here is called. Names of torch-xla 2.9; none is deprecated."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError

TESTED = "2.9"
"""The minor release of torch-xla that was run, and of torch that it is compiled against."""

AXIS = "devices"
"""Name of the one axis of the mesh."""

_SPMD = "XLA_USE_SPMD"

_set: dict[str, tuple[str | None, str | None]] = {}
"""Environment variables that torch-xla has set in this process: what was there before, and what it has set."""


# --- what is installed ----------------------------------------------------------------------------------


def version() -> str | None:
    """Version of the installed torch-xla; None if there is none."""
    try:
        return importlib.metadata.version("torch-xla")
    except importlib.metadata.PackageNotFoundError:
        return None


def examined() -> str | None:
    """Whether torch-xla can be used with this torch: None, or what is wrong and the command that mends it."""
    found, ours = version(), _minor(torch.__version__)
    if found is None:
        return f"torch-xla is not installed: pip install torch=={TESTED}.* torch-xla=={TESTED}.*"
    if _minor(found) != ours:
        return (
            f"torch-xla {found} is compiled against torch {_minor(found)}, and torch {torch.__version__} is here: "
            f"pip install torch=={_minor(found)}.* torch-xla=={found}"
        )
    return None


def _minor(release: str) -> str:
    return ".".join(release.split(".")[:2])


def _xla() -> Any:
    return import_module("torch_xla")


def _model() -> Any:
    return import_module("torch_xla.core.xla_model")


def _runtime() -> Any:
    return import_module("torch_xla.runtime")


# --- process life ---------------------------------------------------------------------------------------


def is_started() -> bool:
    """Whether this process has touched a device, after which none can be launched."""
    return bool(_xla()._XLAC._xla_runtime_is_initialized())  # noqa: SLF001 - what torch_xla.launch asks itself


def start(device: torch.device) -> None:
    """Import torch-xla, touch the device, and seed it as torch's generator is seeded, from which nothing is drawn.

    `torch.manual_seed`, and with it `seed_everything`, leaves XLA's devices alone.
    """
    before = dict(os.environ)
    os.environ.update({name: value for name, (_, value) in _set.items() if value is not None})
    xla = _xla()
    xla.devices()
    _note_changes(before)
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**31, ()))
    xla.manual_seed(seed, device)
    _try_backward(device)


def _note_changes(before: Mapping[str, str]) -> None:
    for name in {*before, *os.environ}:
        was, now = before.get(name), os.environ.get(name)
        if was != now:
            _set.setdefault(name, (was, now))


def _try_backward(device: torch.device) -> None:
    """Refuse a process whose autograd engine has counted its devices without XLA's, which it does once.

    Raises:
        LaunchError: a backward pass ran before XLA was started.
    """
    try:
        torch.zeros(1, device=device, requires_grad=True).sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if "device_ready_queues_" not in str(error):
            raise
        raise LaunchError(
            "a backward pass ran in this process before XLA was started, and torch's autograd engine knows no device "
            "that comes later; train on the TPU first, or call torch_xla.devices() at the top of the program"
        ) from error


def stop() -> None:
    """Put back the environment variables that torch-xla has set; XLA itself stays as long as the process."""
    for name, (before, value) in _set.items():
        if os.environ.get(name) == value:
            if before is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = before


# --- one process for all devices ------------------------------------------------------------------------

NOT_STARTED = TorchrelayError("XLA is not started yet; call setup_environment() first")


def use_spmd() -> None:
    """Let XLA take all devices of this process for one; what has begun so stays so as long as the process.

    Raises:
        LaunchError: a device has been used otherwise in this process.
    """
    if _SPMD in _set:
        return  # `start` sets it again
    before = dict(os.environ)
    if _xla()._XLAC._xla_get_spmd_config_is_locked():  # noqa: SLF001 - what use_spmd asks itself
        raise LaunchError(
            "XLA has been used in this process, device by device, and cannot take all devices for one any more; begin "
            "with the SPMD strategy, in a process of its own"
        )
    _runtime().use_spmd()
    _note_changes(before)


class Mesh:
    """All devices of this process, in a row.

    Args:
        size: how many there have to be.

    Raises:
        ConfigurationError: there are more or fewer.
    """

    def __init__(self, size: int) -> None:
        there = int(_runtime().global_runtime_device_count())
        if there != size:
            raise ConfigurationError(
                f"devices={size}, and XLA divides between all {there} that it sees; take devices={there}"
            )
        self.size = size
        self._spmd = import_module("torch_xla.distributed.spmd")
        self._mesh = self._spmd.Mesh(list(range(size)), (size,), (AXIS,))

    def divide(self, tensor: torch.Tensor, dimension: int) -> torch.Tensor:
        """Annotate a tensor, in place, as divided along a dimension; one without dimensions stays whole."""
        if tensor.dim():
            axes: list[str | None] = [None] * tensor.dim()
            axes[dimension] = AXIS
            self._spmd.mark_sharding(tensor, self._mesh, tuple(axes))
        return tensor


def sharding(tensor: torch.Tensor) -> str:
    """How XLA divides a tensor, in its own words."""
    return str(_xla()._XLAC._get_xla_sharding_spec(tensor))  # noqa: SLF001 - there is no public name


def sync(*, wait: bool = False) -> None:
    """Compile what is pending, unless it was before, and run it. Every replica has to come here.

    Args:
        wait: until it has run.
    """
    _xla().sync(wait=wait)


def syncer() -> Callable[[], None]:
    """`sync`, looked up once."""
    run: Callable[[], None] = _xla().sync
    return run


def memory_stats(device: torch.device) -> dict[str, float]:
    """Memory of a device in bytes; nothing where XLA does not tell."""
    try:
        found: Mapping[str, Any] = _model().get_memory_info(device)
    except RuntimeError:
        return {}
    return {name: float(value) for name, value in found.items()}


def counters() -> dict[str, int]:
    """How many graphs this process has compiled, and how many it has run."""
    metrics = import_module("torch_xla.debug.metrics")
    names = {"compilations": "CompileTime", "executions": "ExecuteTime"}
    found = {name: metrics.metric_data(metric) for name, metric in names.items()}
    return {name: 0 if data is None else int(data[0]) for name, data in found.items()}
