"""The only module that imports FairScale, when a function here is called; and what is known of the installed one."""

from __future__ import annotations

import importlib.metadata
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from torchrelay.errors import ConfigurationError, UnsupportedError
from torchrelay_fairscale.plugin import INSTALL
from torchrelay_fairscale.units import forget_hooks, is_unit

OLDEST, BEYOND = (0, 4, 13), (0, 5)
"""FairScale's releases from the first to before the second are the ones that were run."""

_FAIRSCALE = r"fairscale\."

# FairScale, which nobody develops any more, calls what torch is about to retire: storages that know their type, and
# collectives by their private names. Said of these lines alone, once in each process that uses them.
_RETIRING = (
    ("TypedStorage is deprecated", UserWarning),
    (r"`?torch\.distributed\._(all_gather|reduce_scatter)_base`? ", FutureWarning),
)


def version() -> str | None:
    """Version of the installed FairScale; None if there is none."""
    try:
        return importlib.metadata.version("fairscale")
    except importlib.metadata.PackageNotFoundError:
        return None


def tested() -> str | None:
    """Whether the installed FairScale is one that was run: None, or what is wrong and the command that mends it."""
    found = version()
    if found is None:
        return f"FairScale is not installed: {INSTALL}"
    release = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if OLDEST <= release < BEYOND:
        return None
    first, last = (".".join(map(str, each)) for each in (OLDEST, BEYOND))
    return (
        f"FairScale {found} is not one that torchrelay-fairscale was tested with, which are those from {first} to "
        f"before {last}: {INSTALL}"
    )


# --- sharded optimizers ---------------------------------------------------------------------------------


def make_sharded_optimizer(
    groups: list[dict[str, Any]], make: Callable[..., Any], *, broadcast_fp16: bool
) -> Any:
    """An OSS: each parameter has a rank that updates it and then sends it to the others. Collective from then on.

    Args:
        groups: parameter groups with their options.
        make: makes the optimizer of this rank's part of the groups.
        broadcast_fp16: send weights in 16 bits.
    """
    return import_module("fairscale.optim.oss").OSS(
        groups, optim=make, broadcast_fp16=broadcast_fp16
    )


def disconnect_optimizer(optimizer: Any) -> None:
    """Let go of the process group and of the tensors that parameters are views of."""
    optimizer.group = None
    optimizer.buckets.clear()


# --- fully sharded --------------------------------------------------------------------------------------


@cache
def _fully_sharded() -> Any:
    """FairScale's wrapper, for which `flatten_parameters` may be a function that decides for a unit's parameters."""
    _hush()
    wrapper: Any = import_module("fairscale.nn.data_parallel").FullyShardedDataParallel

    class Unit(wrapper):  # type: ignore[misc]  # a class that only exists when FairScale does
        def __init__(self, module: Any, flatten_parameters: Any, **settings: Any) -> None:
            if callable(flatten_parameters):
                own = [p for p in module.parameters() if not hasattr(p, "_is_sharded")]
                flatten_parameters = flatten_parameters(own)
            super().__init__(module, flatten_parameters=flatten_parameters, **settings)

    return Unit


def _hush() -> None:
    for message, category in _RETIRING:
        warnings.filterwarnings("ignore", message, category, _FAIRSCALE)


def shard(module: Any, settings: Mapping[str, Any]) -> Any:
    """Wrap a module, whose parameters that are not sharded yet become one unit.

    Raises:
        UnsupportedError: its parameters cannot be flattened together.
    """
    with _told():
        return _fully_sharded()(module, **settings)


def shard_children(
    module: Any, settings: Mapping[str, Any], min_num_params: int, policy: Callable[..., Any] | None
) -> None:
    """Wrap submodules, in place, where they are large enough or where the policy says so.

    Raises:
        UnsupportedError: parameters of one cannot be flattened together.
    """
    wrapping = import_module("fairscale.nn.wrap")
    chosen = policy or _by_size(wrapping.default_auto_wrap_policy, min_num_params)
    with _told(), wrapping_context(settings, chosen):
        for name, child in module.named_children():
            setattr(module, name, wrapping.auto_wrap(child))


def _by_size(policy: Callable[..., Any], least: int) -> Callable[..., Any]:
    def judge(**asked: Any) -> Any:
        return policy(**asked, min_num_params=least)

    return judge


@contextmanager
def wrapping_context(
    settings: Mapping[str, Any], policy: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Context in which FairScale's `wrap` and `auto_wrap` shard what they are given."""
    wrapping = import_module("fairscale.nn.wrap")
    with wrapping.enable_wrap(policy, wrapper_cls=_fully_sharded(), **settings):
        yield


@contextmanager
def _told() -> Iterator[None]:
    """FairScale asserts what the user's model has to be."""
    try:
        yield
    except AssertionError as error:
        for words, what in (
            ("same requires_grad", "some that are trained and some that are frozen"),
            ("same dtype", "some of one format and some of another"),
        ):
            if words in str(error):
                raise UnsupportedError(
                    f"FairScale flattens the parameters of a unit into one, and there are {what} in one unit; write "
                    "FullyShardedConfig() without flatten_parameters=True, or a policy that keeps them apart"
                ) from error
        raise


def disconnect_units(outer: Any) -> None:
    """Let go of the process groups that units refer to.

    The reducer of 0.4.13, with a group for each of its buckets, stays in the cache of a method of its own.
    """
    for unit in filter(is_unit, outer.modules()):
        if getattr(unit, "_reducer", None) is not None:
            unit._reducer.buckets.clear()  # noqa: SLF001
            type(unit._reducer)._get_shard_size.cache_clear()  # noqa: SLF001
        forget_hooks(unit.params)
        unit.process_group = unit.process_group_reduce_scatter = unit._reducer = None  # noqa: SLF001


def forget_groups() -> None:
    """Forget the process groups that FairScale keeps for as long as the process lives."""
    kept = import_module("fairscale.internal.parallel").get_process_group_cached
    vars(kept).pop("_global_group_cache", None)


def wrap(module: Any, **settings: Any) -> Any:
    """Shard a layer that `configure_model` makes, as a unit of its own; elsewhere the layer itself.

    Args:
        module: the layer.
        settings: of `FullyShardedDataParallel`, in the place of the strategy's.
    """
    with _told():
        return import_module("fairscale.nn.wrap").wrap(module, **settings)


def checkpoint_wrapper(module: Any, offload_to_cpu: bool = False) -> Any:
    """Let a layer compute its activations once more in backward; inside a unit, rather than around it.

    Args:
        module: the layer.
        offload_to_cpu: keep its inputs in CPU memory until then.

    Raises:
        ConfigurationError: it is a unit.
    """
    if is_unit(module):
        raise ConfigurationError(
            "checkpoint_wrapper goes inside wrap, so that weights are gathered once: wrap(checkpoint_wrapper(layer))"
        )
    return import_module("fairscale.nn.checkpoint").checkpoint_wrapper(
        module, offload_to_cpu=offload_to_cpu
    )
