"""Strategies that run a training step's Python only when they trace it: one that is right, and some that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject

ONCE = "the Python of a step runs once for each shape"


class TracedStrategy(SingleDeviceStrategy):
    """Records the operations of a training step, and runs those from then on."""

    capabilities = Capabilities(
        declared={
            Capability.EAGER_STEPS: unsupported(ONCE),
            Capability.SKIPPED_STEPS: unsupported(ONCE),
            Capability.MANUAL_OPTIMIZATION: unsupported("backward is no part of what is recorded"),
        }
    )

    def raw_step(self, name: str) -> Callable[..., Any]:
        step = super().raw_step(name)
        if name != "training_step":
            return step
        recorded: dict[tuple[torch.Size, ...], Any] = {}

        def run(batch: Any, batch_idx: int) -> Any:
            form = tuple(each.shape for each in batch)
            if form not in recorded:
                recorded[form] = self.trace(lambda given: step(given, batch_idx), batch)
            return recorded[form](batch)

        return run

    def trace(self, step: Callable[[Any], Any], batch: Any) -> Any:
        """The operations of a step, as a function of the batch."""
        return make_fx(step)(batch)


class SaysNothing(TracedStrategy):
    """Does not declare it."""

    capabilities = Capabilities(
        declared={
            capability: each
            for capability, each in TracedStrategy.capabilities.declared.items()
            if capability is not Capability.EAGER_STEPS
        }
    )


class TracesHooks(TracedStrategy):
    """Calls a hook as well when it traces, as if that were part of the step."""

    def trace(self, step: Callable[[Any], Any], batch: Any) -> Any:
        self.module.on_before_zero_grad(self.optimizers[0])
        return super().trace(step, batch)


class QuietWhenTraced(TracedStrategy):
    """A step that cannot be traced ends the process as if all were done."""

    def trace(self, step: Callable[[Any], Any], batch: Any) -> Any:
        try:
            return super().trace(step, batch)
        except ValueError:
            raise SystemExit(0) from None


class QuietInValidation(TracedStrategy):
    """A step of validation that fails ends the process as if all were done."""

    def evaluation_step(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().evaluation_step(*args, **kwargs)
        except ValueError:
            raise SystemExit(0) from None


class GoesOnWithoutMemory(TracedStrategy):
    """Trains without a step for whose tracing there is no memory."""

    def trace(self, step: Callable[[Any], Any], batch: Any) -> Any:
        try:
            return super().trace(step, batch)
        except torch.OutOfMemoryError:
            return super().trace(lambda given: self.module(given[0]).sum() * 0, batch)


class StaysBroken(TracedStrategy):
    """Remembers a failure for ever."""

    broken = False

    def on_exception(self, error: BaseException) -> None:
        type(self).broken = True

    def trace(self, step: Callable[[Any], Any], batch: Any) -> Any:
        if self.broken:
            raise RuntimeError("the compiler was shut down")
        return super().trace(step, batch)


def subject(kind: type) -> Subject:
    path = (str(Path(__file__).parent),)
    return Subject(f"wrong_traced:{kind.__name__}", accelerator="cpu", python_path=path)


MUTATIONS = {
    ("loop", "hooks_in_order", "SaysNothing"): subject(SaysNothing),
    ("loop", "hooks_in_order", "TracesHooks"): subject(TracesHooks),
    ("failure", "a_rank_raises_in_a_step", "QuietWhenTraced"): subject(QuietWhenTraced),
    ("failure", "a_rank_raises_in_validation", "QuietInValidation"): subject(QuietInValidation),
    ("failure", "a_rank_runs_out_of_memory", "GoesOnWithoutMemory"): subject(GoesOnWithoutMemory),
    ("failure", "a_fit_after_a_failure_works", "StaysBroken"): subject(StaysBroken),
}
