"""The arguments of DistributedDataParallel and of its communication hooks, checked when they are given."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from torchrelay.errors import ConfigurationError

COMPONENTS = (
    "accelerator",
    "checkpoint_io",
    "cluster_environment",
    "collectives",
    "launcher",
    "parallel_devices",
    "precision_plugin",
    "process_group_backend",
    "start_method",
    "timeout",
)

# The strategy decides these from the device of each process.
_OURS = {"self", "module", "device_ids", "output_device", "process_group", "device_mesh"}

DDP_ARGUMENTS = tuple(
    name for name in inspect.signature(DistributedDataParallel).parameters if name not in _OURS
)


@dataclass(frozen=True, kw_only=True)
class CommunicationHook:
    """A hook that decides how gradients are communicated.

    Args:
        hook: such as `torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook`.
        state: its first argument.
        wrapper: wraps the hook, such as `fp16_compress_wrapper`.
        model_averaging_period: updates between two averagings of the weights, for a post-local SGD hook; None for
            no averaging.
    """

    hook: Callable[..., Any] | None = None
    state: Any = None
    wrapper: Callable[..., Any] | None = None
    model_averaging_period: int | None = None

    def __post_init__(self) -> None:
        if self.hook is None and (self.state is not None or self.wrapper is not None):
            raise ConfigurationError(
                "ddp_comm_state and ddp_comm_wrapper do nothing without ddp_comm_hook; give the hook too"
            )
        averages = self.model_averaging_period is not None
        if averages and not hasattr(self.state, "start_localSGD_iter"):
            raise ConfigurationError(
                "model_averaging_period needs ddp_comm_state=PostLocalSGDState(...) and its hook "
                "post_localSGD_hook, which leave gradients local between two averagings"
            )

    def register(self, model: DistributedDataParallel) -> None:
        """Let the hook communicate the model's gradients."""
        if self.hook is not None:
            hook = self.hook if self.wrapper is None else self.wrapper(self.hook)
            model.register_comm_hook(self.state, hook)


def split(options: dict[str, Any], owner: type) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tell a strategy's components from the arguments of DistributedDataParallel.

    Args:
        options: what a constructor was given beside its own options.
        owner: the strategy's class.

    Raises:
        ConfigurationError: an option is neither.
    """
    components = {name: value for name, value in options.items() if name in COMPONENTS}
    arguments = {name: value for name, value in options.items() if name in DDP_ARGUMENTS}
    for name in options:
        if name not in components and name not in arguments:
            known = dict.fromkeys((*_own_options(owner), *COMPONENTS, *DDP_ARGUMENTS))
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}? It" if close else "it"
            raise ConfigurationError(
                f"{owner.__name__} has no option {name!r}; {hint} takes {', '.join(known)}"
            )
    return components, arguments


def _own_options(owner: type) -> list[str]:
    return [
        parameter.name
        for base in owner.__mro__
        for parameter in inspect.signature(base).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
