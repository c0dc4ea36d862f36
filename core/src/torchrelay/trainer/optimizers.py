"""What `configure_optimizers` returns, made uniform, and the optimizers that a module's own code drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchrelay.errors import ConfigurationError

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy

StepScheduler = Callable[[Any, Any], None]
"""Steps a scheduler with the metric that it watches, or None; see `LightningModule.lr_scheduler_step`."""

FORMS = (
    "an Optimizer, a list of them, a pair (optimizers, schedulers), a dict with 'optimizer' and perhaps "
    "'lr_scheduler', a list of such dicts, or None"
)


def step_scheduler(scheduler: Any, metric: Any) -> None:
    """Step a scheduler, with what it watches if it watches something."""
    if metric is None:
        scheduler.step()
    else:
        scheduler.step(metric)


@dataclass
class SchedulerConfig:
    """A learning-rate scheduler and when it steps.

    Attributes:
        scheduler: the scheduler.
        interval: "epoch" or "step" (a weight update).
        frequency: steps once in so many intervals.
        monitor: the logged metric that a `ReduceLROnPlateau` watches.
        strict: whether a missing metric is an error.
        name: name for loggers.
    """

    scheduler: Any
    interval: str = "epoch"
    frequency: int = 1
    monitor: str | None = None
    strict: bool = True
    name: str | None = None

    def __post_init__(self) -> None:
        if not _is_scheduler(self.scheduler):
            raise ConfigurationError(
                f"configure_optimizers returned {_describe(self.scheduler)} as a learning-rate scheduler; give an "
                "object with step() and state_dict(), such as torch.optim.lr_scheduler.StepLR(optimizer, 10)"
            )
        if self.interval not in ("epoch", "step"):
            raise ConfigurationError(
                f"lr_scheduler interval={self.interval!r} must be 'epoch' or 'step'"
            )
        if not isinstance(self.frequency, int) or self.frequency < 1:
            raise ConfigurationError(
                f"lr_scheduler frequency={self.frequency!r} must be a number from 1"
            )
        if isinstance(self.scheduler, ReduceLROnPlateau) and self.monitor is None:
            raise ConfigurationError(
                "ReduceLROnPlateau watches a metric: return it as "
                "{'scheduler': scheduler, 'monitor': 'the metric you log'}"
            )

    def step(
        self,
        metrics: Callable[[], Mapping[str, Any]],
        agree: Callable[[Any], Any] = lambda value: value,
        take: StepScheduler = step_scheduler,
    ) -> None:
        """Step the scheduler by `take`, with the metric it watches if it watches one.

        Args:
            metrics: every metric that was logged, by name.
            agree: one value for all ranks; a rank that followed its own would have another learning rate.
            take: takes the step.

        Raises:
            ConfigurationError: the metric has not been logged.
        """
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            take(self.scheduler, None)
            return
        found = metrics()
        watched = agree(None if self.monitor is None else found.get(self.monitor))
        if watched is not None:
            take(self.scheduler, watched)
        elif self.strict:
            raise ConfigurationError(
                f"ReduceLROnPlateau watches {self.monitor!r}, which has not been logged; "
                f"logged: {', '.join(sorted(found)) or 'nothing'}"
            )


def parse(returned: Any) -> tuple[list[Optimizer], list[SchedulerConfig]]:
    """Make the documented forms of `configure_optimizers` uniform.

    Raises:
        ConfigurationError: it returned something else.
    """
    if returned is None:
        return [], []
    if isinstance(returned, Mapping):
        return _from_dicts([returned])
    if isinstance(returned, Optimizer):
        return [returned], []
    if isinstance(returned, Sequence) and not isinstance(returned, str) and returned:
        if all(isinstance(item, Optimizer) for item in returned):
            return list(returned), []
        if all(isinstance(item, Mapping) for item in returned):
            return _from_dicts(returned)
        if len(returned) == 2 and all(isinstance(item, (list, tuple)) for item in returned):
            optimizers, schedulers = returned
            if all(isinstance(item, Optimizer) for item in optimizers):
                return list(optimizers), [_scheduler(item) for item in schedulers]
    raise ConfigurationError(
        f"configure_optimizers returned {_describe(returned)}; it may return {FORMS}"
    )


def _is_scheduler(value: Any) -> bool:
    if isinstance(value, (type, Optimizer)):
        return False
    return hasattr(value, "step") and hasattr(value, "state_dict")


def _describe(value: Any) -> str:
    """A value in a few words of one line: an optimizer's repr has many."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {', '.join(map(_describe, value)) or 'nothing'}"
    if isinstance(value, (str, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def _from_dicts(
    dicts: Sequence[Mapping[str, Any]],
) -> tuple[list[Optimizer], list[SchedulerConfig]]:
    optimizers, schedulers = [], []
    for entry in dicts:
        unknown = set(entry) - {"optimizer", "lr_scheduler", "monitor"}
        if unknown or not isinstance(entry.get("optimizer"), Optimizer):
            raise ConfigurationError(
                f"configure_optimizers returned a dict with keys {sorted(map(str, entry))}; it needs 'optimizer' "
                "(an Optimizer) and takes 'lr_scheduler' and 'monitor'"
            )
        optimizers.append(entry["optimizer"])
        if entry.get("lr_scheduler") is not None:
            schedulers.append(_scheduler(entry["lr_scheduler"], entry.get("monitor")))
    return optimizers, schedulers


def _scheduler(entry: Any, monitor: str | None = None) -> SchedulerConfig:
    if not isinstance(entry, Mapping):
        return SchedulerConfig(entry, monitor=monitor)
    options = {"monitor": monitor, **entry}
    options.pop("reduce_on_plateau", None)
    unknown = set(options) - set(SchedulerConfig.__dataclass_fields__)
    if unknown or "scheduler" not in options:
        raise ConfigurationError(
            f"lr_scheduler has keys {sorted(map(str, entry))}; it needs 'scheduler' and takes "
            f"{', '.join(sorted(SchedulerConfig.__dataclass_fields__))}"
        )
    return SchedulerConfig(**options)


class StrategyOptimizer:
    """An optimizer in the hands of the user's code; its calls go through the strategy.

    Args:
        optimizer: the strategy's optimizer.
        strategy: takes the steps.
        ready: makes gradients ready for the update (finalize, hooks, clipping).
        on_step: told after each update.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        strategy: Strategy,
        ready: Callable[[Optimizer], None],
        on_step: Callable[[], None],
    ) -> None:
        self.optimizer = optimizer
        self._strategy = strategy
        self._ready = ready
        self._on_step = on_step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Run the closure if there is one, make gradients ready, and update the weights."""

        def whole() -> Any:
            result = closure() if closure is not None else None
            self._ready(self.optimizer)
            return result

        result = self._strategy.optimizer_step(self.optimizer, whole)
        self._on_step()
        return result

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients in the one way that suits the strategy; `set_to_none` is a hint it may ignore."""
        self._strategy.zero_grad(self.optimizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["optimizer"], name)
