"""The only module that imports torch-xla, when a function here is called. Names of torch-xla 2.9, none deprecated."""

from __future__ import annotations

import importlib.metadata
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import ConfigurationError, LaunchError, TorchrelayError

TESTED = "2.9"
"""The minor release of torch-xla that was run, and of torch that it is compiled against."""

AXIS = "devices"
"""Name of the one axis of the mesh."""

_SPMD = "XLA_USE_SPMD"

_set: dict[str, tuple[str | None, str | None]] = {}
"""Environment variables that torch-xla has set in this process: what was there before, and what it has set."""

_setting = threading.Lock()
"""Replicas may be threads, which note at once what is set."""


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
    """Whether this process has touched a device, after which none can be launched. Imports torch-xla."""
    return bool(_xla()._XLAC._xla_runtime_is_initialized())  # noqa: SLF001 - what torch_xla.launch asks itself


def start(device: torch.device, seed_: int) -> None:
    """Import torch-xla, make a device the one that `sync` is about, and seed it.

    Raises:
        LaunchError: a backward pass ran before XLA was started.
    """
    before = _begin()
    _xla().devices()
    _xla().device(device.index or 0)
    _note_changes(before)
    seed(device, seed_)
    _try_backward(device)


def seed(device: torch.device, value: int) -> None:
    """Seed a device's generator."""
    _xla().manual_seed(value, device)


def _begin() -> dict[str, str]:
    """The environment variables as they are, before those of torch-xla's are set again."""
    before = dict(os.environ)
    with _setting:
        os.environ.update({name: value for name, (_, value) in _set.items() if value is not None})
    return before


def _note_changes(before: Mapping[str, str]) -> None:
    for name in {*before, *os.environ}:
        was, now = before.get(name), os.environ.get(name)
        if was != now:
            with _setting:
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
            "that comes later; train on the TPU first, or call torch_xla.devices() at the top of the program; where "
            'replicas are launched, give TPUSpawnStrategy(start_method="spawn")'
        ) from error


@contextmanager
def own_variables() -> Iterator[None]:
    """Let torch-xla be imported inside, and put back afterwards what that has set."""
    before = _begin()
    try:
        yield
    finally:
        _note_changes(before)
        stop()


def stop() -> None:
    """Put back the environment variables that torch-xla has set; XLA itself stays as long as the process."""
    with _setting:
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
    try:
        if not _runtime().is_spmd():
            _begin_spmd()
    finally:
        _note_changes(before)


def _begin_spmd() -> None:
    if _xla()._XLAC._xla_get_spmd_config_is_locked():  # noqa: SLF001 - what use_spmd asks itself
        raise LaunchError(
            "XLA has been used in this process, device by device, and cannot take all devices for one any more; begin "
            "with the SPMD strategy, in a process of its own"
        )
    _runtime().use_spmd()


def divides_all(there: int) -> str:
    """Why a part of the devices cannot be taken."""
    return f"XLA divides between all {there} devices that it sees; take devices={there}"


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
            raise ConfigurationError(f"devices={size}: {divides_all(there)}")
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


# --- replicas -------------------------------------------------------------------------------------------

_OPERATIONS = {
    "mean": "REDUCE_SUM",
    "sum": "REDUCE_SUM",
    "min": "REDUCE_MIN",
    "max": "REDUCE_MAX",
    "product": "REDUCE_MUL",
}


def launch(function: Callable[..., None], arguments: tuple[Any, ...], start_method: str) -> None:
    """Run `function(rank, *arguments)` in a replica for each device, and wait for them."""
    _xla().launch(function, args=arguments, start_method=start_method)


@contextmanager
def explaining(debug: bool) -> Iterator[None]:
    """Let what is launched inside say on stderr why it compiles and runs graphs."""
    name = "PT_XLA_DEBUG_LEVEL"
    before = os.environ.get(name)
    if debug:
        os.environ[name] = "2"
    try:
        yield
    finally:
        if debug and before is None:
            os.environ.pop(name, None)
        elif before is not None:
            os.environ[name] = before


def device() -> torch.device:
    """The device of this replica."""
    found: torch.device = _xla().device()
    return found


def place() -> tuple[int, int, int]:
    """This replica among all, among those of its machine, and how many there are."""
    runtime = _runtime()
    return int(runtime.global_ordinal()), int(runtime.local_ordinal()), int(runtime.world_size())


def share(module: nn.Module) -> None:
    """Give every replica rank 0's parameters and buffers, in place, to the bit. Collective.

    torch-xla's own way multiplies what others have by zero, of which infinity makes NaN.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if not tensors:
        return
    # What a replica is comes as data, so that all of them run one graph.
    is_first = torch.tensor(place()[0] == 0).to(tensors[0].device)
    with torch.no_grad():
        wide = [each.int() if each.dtype == torch.bool else each for each in tensors]
        sent = [torch.where(is_first, each, torch.zeros_like(each)) for each in wide]
        _sum_in_place(sent)
        for tensor, received in zip(tensors, sent, strict=True):
            tensor.copy_(received)


def reduce_gradients(optimizer: Optimizer) -> None:
    """Average the gradients of an optimizer's parameters when the step runs. Collective.

    Copies are averaged, which costs nothing in a graph: torch-xla 2.9 averages in place, and of gradients to which
    micro-batches were added in place it leaves some as they are, where a parameter is shared.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    held = [parameter for parameter in parameters if parameter.grad is not None]
    averaged = [parameter.grad.clone() for parameter in held]
    _sum_in_place(averaged, scale=1 / place()[2])
    for parameter, gradient in zip(held, averaged, strict=True):
        parameter.grad = gradient


def _sum_in_place(tensors: list[torch.Tensor], scale: float = 1.0) -> None:
    """Sum over all replicas, a call for each format: replicas of XLA:CPU would wait for two at once, crosswise."""
    model = _model()
    for dtype in dict.fromkeys(each.dtype for each in tensors):
        alike = [each for each in tensors if each.dtype == dtype]
        model.all_reduce(model.REDUCE_SUM, alike, scale=scale)


def all_reduce(buffer: torch.Tensor, op: str, to: torch.device) -> torch.Tensor:
    """The sum, smallest, largest or product over all replicas (*s), on the CPU. Collective.

    Args:
        buffer: of shape (*s), on the CPU.
        op: as of `torchrelay.collectives`; "mean" sums.
        to: the device of this replica.
    """
    model = _model()
    result: torch.Tensor = model.all_reduce(getattr(model, _OPERATIONS[op]), buffer.to(to)).cpu()
    return result


def all_gather(buffer: torch.Tensor, to: torch.device) -> torch.Tensor:
    """Every replica's buffer (n), in rank order, as (world_size, n) on the CPU. Collective.

    Args:
        buffer: of shape (n), on the CPU.
        to: the device of this replica.
    """
    # With the layout pinned torch-xla pads by the replica's number, which makes each graph another one.
    result: torch.Tensor = _model().all_gather(buffer.to(to), dim=0, pin_layout=False).cpu()
    return result.reshape(-1, buffer.numel())


def sync() -> None:
    """Compile what is pending, unless it was before, and run it. Every replica has to come here."""
    syncer()()


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
    names = {
        "compilations": ("CompileTime",),
        "executions": ("ExecuteTime", "ExecuteReplicatedTime"),
    }
    found = {name: map(metrics.metric_data, both) for name, both in names.items()}
    return {name: sum(int(each[0]) for each in data if each) for name, data in found.items()}
