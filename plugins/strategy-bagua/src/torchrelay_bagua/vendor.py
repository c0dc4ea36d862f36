"""The only module that imports Bagua, when a function here is called.

`communication`, `algorithms`, `q_adam`, `parallel`, `wrapper` and `averaging` are names of Bagua's objects alone: a
test reads off every use of them, and holds it against the sources in Bagua's wheel.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import LaunchError, UnavailableError
from torchrelay_bagua.plugin import INSTALL, PYTHONS, RELEASE, WHEELS

VARIABLES = (
    "BAGUA_AUTOTUNE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "NODE_RANK",
    "RANK",
    "WORLD_SIZE",
)
"""Variables from which Bagua learns of the ranks, each time that it needs them."""

TYPES = frozenset({torch.float16, torch.float32, torch.int64, torch.uint8})
"""What Bagua sends (`to_bagua_datatype` in bagua/torch_api/utils.py)."""

OF_A_TENSOR = (
    "bagua_tensor_name",
    "bagua_module_name",
    "bagua_backend",
    "_bagua_getter_closure",
    "_bagua_setter_closure",
    "_bagua_backend_tensor",
    "_bagua_ready_event",
    "_bagua_bucket",
)
"""What Bagua leaves on a parameter (`ensure_bagua_tensor` in bagua/torch_api/tensor.py)."""

OF_AN_OPTIMIZER = "_bagua_original_step"
"""And on an optimizer (`_register_optimizer_hooks` in bagua/torch_api/data_parallel/bagua_distributed.py)."""


# --- what is installed ----------------------------------------------------------------------------------


def module(name: str = "") -> Any:
    """A module of Bagua's, by its name below `bagua.torch_api`.

    Raises:
        UnavailableError: it is not there, or cannot be imported here.
    """
    try:
        return import_module(f"bagua.torch_api.{name}".rstrip("."))
    except Exception as error:  # a library that does not fit may raise anything
        raise UnavailableError(f"Bagua cannot be imported ({_line(error)}); {INSTALL}") from error


def distribution() -> tuple[str, str] | None:
    """Name and version of the installed distribution; Bagua built from its sources is `bagua`."""
    for name in ("bagua", *(f"bagua-cuda{cuda.replace('.', '')}" for cuda in WHEELS)):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def examined() -> str | None:
    """Whether Bagua is there and is for this Python and this torch: None, or what is wrong and what mends it."""
    if importlib.util.find_spec("bagua") is None:
        return "; ".join(("Bagua is not installed", *_unsuitable(), INSTALL))
    found = distribution()
    cuda = torch.version.cuda
    if found is not None and found[0] != "bagua" and cuda is not None:
        built = next(each for each in WHEELS if found[0].endswith(each.replace(".", "")))
        if built.partition(".")[0] != cuda.partition(".")[0]:
            return f"{found[0]} is for CUDA {built}, and torch {torch.__version__} for CUDA {cuda}; {INSTALL}"
    try:
        module()
        version = str(import_module("bagua.version").__version__)
    except UnavailableError as error:
        return str(error)
    if version.partition("+")[0] != RELEASE:
        return (
            f"Bagua {version} is not the release whose interface was checked, {RELEASE}; {INSTALL}"
        )
    return None


def _unsuitable() -> list[str]:
    """Why no wheel can be had here."""
    first, last = PYTHONS
    python = sys.version_info[:2]
    reasons = []
    if not first <= python <= last:
        reasons.append(f"it has no wheel for Python {platform.python_version()}")
    cuda = torch.version.cuda
    if cuda is not None and cuda not in WHEELS:
        reasons.append(f"it has no wheel for CUDA {cuda}, which torch {torch.__version__} is for")
    return reasons


# --- process life ---------------------------------------------------------------------------------------


def is_started() -> bool:
    """Whether Bagua is connected in this process, which it then is until the process ends."""
    communication = module("communication")
    return bool(communication.is_initialized())


def start(store: Any, rank: int, world_size: int, local_world_size: int) -> None:
    """Meet the other processes, and on rank 0 start Bagua's service. Collective.

    The service, an HTTP server without a password, listens on every interface: the address is written into Bagua
    (`run_flask_app` in bagua/torch_api/communication.py), and no variable changes it. It is a process of its own
    (`start_autotune_server`), which multiprocessing ends at this one's exit, but not where SIGKILL or `os._exit` does.

    Args:
        store: through which processes find each other.
        rank: this process.
        world_size: number of processes.
        local_world_size: number of processes on this machine, which has to be that of every machine.

    Raises:
        LaunchError: the others, or the service, cannot be met.
    """
    communication = module("communication")
    try:
        communication.init_process_group(
            store=store, rank=rank, world_size=world_size, local_world_size=local_world_size
        )
    except Exception as error:
        raise LaunchError(
            f"{type(error).__name__}: {_line(error)}: Bagua did not meet the other processes; see that all of them "
            "run, that they reach MASTER_ADDR, and that BAGUA_SERVICE_PORT, if it is set, is free there"
        ) from error


def environment() -> dict[str, str | None]:
    """The variables that Bagua reads, or writes; None for those that are not there."""
    return {name: os.environ.get(name) for name in VARIABLES}


def restore(variables: dict[str, str | None]) -> None:
    """Put variables back as they were."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


# --- collectives ----------------------------------------------------------------------------------------


def reduce_in_place(buffer: torch.Tensor, op: str) -> None:
    """Combine a contiguous buffer of one of `TYPES` by "AVG", "SUM", "MIN", "MAX" or "PRODUCT". Collective."""
    communication = module("communication")
    communication.allreduce_inplace(buffer, op=communication.ReduceOp[op])


def gather(payload: torch.Tensor, world_size: int) -> torch.Tensor:
    """The payloads (n,) of all ranks as rows (world_size, n), in rank order. Collective."""
    communication = module("communication")
    rows = payload.new_empty(world_size, payload.numel())
    communication.allgather(payload, rows)
    return rows


def broadcast_object(value: Any, src: int) -> Any:
    """Rank `src`'s object, which can be pickled, on every rank. Collective."""
    communication = module("communication")
    return communication.broadcast_object(value, src=src)


def barrier() -> None:
    """Wait until all ranks have come here."""
    communication = module("communication")
    communication.barrier()


# --- algorithms -----------------------------------------------------------------------------------------


def algorithm(name: str, arguments: dict[str, Any]) -> Any:
    """One of Bagua's algorithms, with its arguments."""
    algorithms = module("algorithms")
    return algorithms.Algorithm.init(name, **arguments)


def is_qadam(optimizer: Optimizer) -> bool:
    """Whether an optimizer is Bagua's QAdam."""
    q_adam = module("algorithms.q_adam")
    return isinstance(optimizer, q_adam.QAdamOptimizer)


def wrap(
    model: nn.Module,
    name: str,
    optimizers: Sequence[Optimizer],
    algorithm: Any,
    *,
    flatten: bool,
) -> nn.Module:
    """Bagua's wrapper, which sends rank 0's trained weights and replaces `step` of each optimizer. Collective.

    Args:
        model: what training runs through; none of its parameters is its own, as Bagua loses those.
        name: by which the service knows the model, the same on all ranks; a module that is wrapped again keeps it.
        optimizers: of the model's parameters.
        algorithm: what `algorithm` made.
        flatten: let gradients, or weights, lie side by side in memory.
    """
    parallel = module("data_parallel")
    model.bagua_module_name = name  # type: ignore[assignment]  # Bagua's property of every module
    wrapper: nn.Module = parallel.DistributedDataParallel(
        model,
        gradient_as_bucket_view=flatten,
        optimizers=list(optimizers),
        algorithm=algorithm,
    )
    return wrapper


def no_sync(wrapper: Any) -> AbstractContextManager[Any]:
    """Context in which backward sends no gradients."""
    context: AbstractContextManager[Any] = wrapper.no_sync()
    return context


def silence(wrapper: Any) -> None:
    """Let the wrapper's hooks, which stay on the parameters, do nothing any more."""
    wrapper.inner.require_backward_grad_sync = False


def release(parameters: Iterable[nn.Parameter], optimizers: Iterable[Optimizer]) -> None:
    """Take Bagua's objects off parameters and optimizers; those of the native code cannot be pickled.

    Another model may then have the parameters, under a name of its own.
    """
    for parameter in parameters:
        for name in OF_A_TENSOR:
            vars(parameter).pop(name, None)
    for optimizer in optimizers:
        vars(optimizer).pop(OF_AN_OPTIMIZER, None)


def resume(wrapper: Any) -> None:
    """Begin to average in the background. Collective."""
    averaging = wrapper.bagua_algorithm
    averaging.resume(wrapper)


def abort(wrapper: Any) -> None:
    """End it. Collective."""
    averaging = wrapper.bagua_algorithm
    averaging.abort(wrapper)


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
