"""What `training_step` calls when it makes the updates itself, and what helps an own `configure_gradient_clipping`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from torchrelay.errors import ConfigurationError
from torchrelay.module_facts import ModuleFacts
from torchrelay.strategies.plan import Clip


class DriverOptimizer(Protocol):
    """What `LightningModule.optimizers()` hands out: an optimizer whose calls go through the strategy."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients, as the strategy does it."""


class ManualOptimization(ModuleFacts):
    """Backward passes, optimizers and schedulers in the hands of a module."""

    _toggled: dict[nn.Parameter, bool] | None = None

    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass of a loss that is divided and scaled already; override to do it otherwise."""
        loss.backward(*args, **kwargs)  # type: ignore[no-untyped-call]

    def manual_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        """Run the backward pass, as the strategy and the precision need it.

        Args:
            loss: 0-dim tensor.
            args: for `backward`, as are
            kwargs: such as `retain_graph=True`.
        """
        hooks = self.trainer.hooks
        hooks.call("on_before_backward", loss)
        self._backward(loss, args, kwargs)
        hooks.call("on_after_backward")

    def _backward(self, loss: torch.Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        strategy = self.trainer.strategy
        if not args and not kwargs:
            strategy.backward(loss)
            return
        usual = strategy.backward_through
        strategy.backward_through = lambda scaled: self.backward(scaled, *args, **kwargs)
        try:
            strategy.backward(loss)
        finally:
            strategy.backward_through = usual

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or a list of them when there are several.

        Args:
            use_pl_optimizer: give those whose calls go through the strategy, which precision and counting need;
                otherwise the strategy's own.
        """
        optimizers = self.trainer.driver_optimizers if use_pl_optimizer else self.trainer.optimizers
        return optimizers[0] if len(optimizers) == 1 else list(optimizers)

    def lr_schedulers(self) -> Any:
        """The learning-rate scheduler, a list when there are several, None when there is none."""
        schedulers = self.trainer.strategy.schedulers
        return schedulers[0] if len(schedulers) == 1 else (schedulers or None)

    def toggle_optimizer(self, optimizer: Any) -> None:
        """Let the parameters of one optimizer alone require gradients, until `untoggle_optimizer`.

        Raises:
            ConfigurationError: one is toggled already.
        """
        if self._toggled is not None:
            raise ConfigurationError(
                "toggle_optimizer: an optimizer is toggled already; call untoggle_optimizer(optimizer) before"
            )
        own = set(_parameters(optimizer))
        every = {p for each in self.trainer.optimizers for p in _parameters(each)}
        self._toggled = {p: p.requires_grad for p in every}
        for parameter in every - own:
            parameter.requires_grad_(False)

    def untoggle_optimizer(self, optimizer: Any) -> None:
        """Let each parameter require gradients as it did before `toggle_optimizer`.

        Raises:
            ConfigurationError: none is toggled.
        """
        if self._toggled is None:
            raise ConfigurationError(
                "untoggle_optimizer: no optimizer is toggled; call toggle_optimizer(optimizer) before"
            )
        for parameter, required in self._toggled.items():
            parameter.requires_grad_(required)
        self._toggled = None

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Iterator[None]:
        """The time between `toggle_optimizer` and `untoggle_optimizer`, which an exception ends too."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def clip_gradients(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip an optimizer's gradients, reduced and unscaled, in the way that suits the strategy.

        Args:
            optimizer: whose.
            gradient_clip_val: limit; the Trainer's when None, and nothing is done where that is None too.
            gradient_clip_algorithm: "norm" or "value"; the Trainer's, or "norm", when None.

        Raises:
            ConfigurationError: the Trainer was given another limit or algorithm.
        """
        options = self.trainer.options
        value, algorithm = (
            _agreed(name, given, getattr(options, name))
            for name, given in (
                ("gradient_clip_val", gradient_clip_val),
                ("gradient_clip_algorithm", gradient_clip_algorithm),
            )
        )
        if algorithm not in (None, "norm", "value"):
            raise ConfigurationError(
                f"clip_gradients(..., gradient_clip_algorithm={algorithm!r}) must be 'norm' or 'value'"
            )
        if value:
            strategy, own = self.trainer.strategy, _unwrapped(optimizer)
            strategy.finalize_gradients(own)
            strategy.clip_gradients(own, Clip(float(value), algorithm or "norm"))


def _agreed(name: str, given: Any, of_trainer: Any) -> Any:
    """What was given, or else the Trainer's; the two must not differ."""
    if given is not None and of_trainer is not None and given != of_trainer:
        raise ConfigurationError(
            f"clip_gradients(..., {name}={given!r}) contradicts Trainer({name}={of_trainer!r}); give one"
        )
    return of_trainer if given is None else given


def _unwrapped(optimizer: Any) -> Optimizer:
    """The strategy's optimizer behind one that `optimizers()` handed out."""
    return optimizer if isinstance(optimizer, Optimizer) else optimizer.optimizer


def _parameters(optimizer: Any) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
