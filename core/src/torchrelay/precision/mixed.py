"""MixedPrecision: 32-bit parameters, 16-bit arithmetic where torch's autocast deems it safe."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from torchrelay.errors import ConfigurationError, UnknownNameError, UnsupportedError
from torchrelay.precision.precision import Closure, Precision, Step

_FORMATS = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


class MixedPrecision(Precision):
    """32-bit parameters, 16-bit arithmetic where torch's autocast deems it safe.

    "16-mixed" scales losses so that small gradients survive, and an update whose gradients overflow is
    skipped; the scale then shrinks, so this is no error. "bf16-mixed" has the range of 32 bits and needs none
    of that.

    A window is what happens between one update and the next backward. The scaler learns from a window when
    the next begins, so several optimizers may step in one.

    Args:
        name: "16-mixed" or "bf16-mixed".
        device_type: the type of the device that computes, until `setup` tells it.
        scaler: gradient scaler for "16-mixed"; one with torch's defaults when None.

    Raises:
        UnknownNameError: another name.
        ConfigurationError: a scaler for "bf16-mixed".
    """

    def __init__(
        self,
        name: str = "16-mixed",
        device_type: str = "cpu",
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        if name not in _FORMATS:
            raise UnknownNameError(
                f"there is no mixed precision {name!r}; choose one of {', '.join(_FORMATS)}"
            )
        if scaler is not None and name != "16-mixed":
            raise ConfigurationError(
                f"{name} scales no gradients; leave out scaler, or take 16-mixed"
            )
        self.name = name
        self.dtype = _FORMATS[name]
        self.device_type = device_type
        self._scaler = scaler
        # The optimizers whose gradients were unscaled in this window, and whether they were updated.
        self._window: dict[int, bool] = {}

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """The gradient scaler; None for "bf16-mixed"."""
        # Made late: a scaler for CUDA touches the driver, after which processes cannot be forked.
        if self._scaler is None and self.name == "16-mixed":
            self._scaler = torch.amp.GradScaler(self.device_type)
        return self._scaler

    def setup(self, device: torch.device) -> None:
        """Take arithmetic and gradient scale to the device that computes."""
        self.device_type = device.type

    def init_context(self) -> AbstractContextManager[Any]:
        """Parameters keep 32 bits."""
        return nullcontext()

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Parameters keep 32 bits."""
        return module

    def wrap_step(self, step: Step) -> Step:
        """A step under autocast."""

        @functools.wraps(step)
        def under_autocast(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(self.device_type, self.dtype):
                return step(*args, **kwargs)

        return cast(Step, under_autocast)

    def backward(self, loss: torch.Tensor, run: Callable[[torch.Tensor], None]) -> None:
        """Begin a window if the last one is over, and run the backward pass of the scaled loss."""
        scaler = self.scaler
        if scaler is None:
            run(loss)
            return
        self._end_window(scaler)
        run(scaler.scale(loss))

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, once until the next backward."""
        scaler = self.scaler
        if scaler is not None and id(optimizer) not in self._window and _has_gradients(optimizer):
            scaler.unscale_(optimizer)
            self._window[id(optimizer)] = False

    def optimizer_step(self, optimizer: torch.optim.Optimizer, closure: Closure) -> Any:
        """Run `closure`, then update unless a gradient overflowed; return the closure's result.

        Without a new gradient since the last update (the closure skipped the step) there is nothing to do.

        Raises:
            UnsupportedError: the optimizer calls its closure itself, which scaled gradients do not allow.
        """
        scaler = self.scaler
        if scaler is None:
            return optimizer.step(closure)
        if drives_its_closure(type(optimizer).step):
            raise UnsupportedError(
                f"{type(optimizer).__name__} evaluates its closure several times a step, which 16-mixed "
                "cannot follow with its gradient scale; use precision='bf16-mixed' or '32-true'"
            )
        result = closure()
        self.update(optimizer)
        return result

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Update from gradients that are there already, unless one overflowed or none is new."""
        scaler = self.scaler
        if scaler is None:
            optimizer.step()
            return
        self.unscale(optimizer)
        if self._window.get(id(optimizer)) is False:
            scaler.step(optimizer)
            self._window[id(optimizer)] = True

    def state_dict(self) -> dict[str, Any]:
        """The gradient scale and its history; empty for "bf16-mixed"."""
        scaler = self.scaler
        if scaler is None:
            return {}
        self._end_window(scaler)
        return scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the gradient scale; a state of a run without one changes nothing."""
        scaler = self.scaler
        if scaler is not None and state:
            self._window.clear()
            scaler.load_state_dict(state)

    def _end_window(self, scaler: torch.amp.GradScaler) -> None:
        if self._window:
            scaler.update()
            self._window.clear()


@functools.cache
def drives_its_closure(step: Callable[..., Any]) -> bool:
    """Whether an optimizer class's `step` demands a closure, as LBFGS does, because it calls it several times."""
    closure = inspect.signature(step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def _has_gradients(optimizer: torch.optim.Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
