"""Compiled steps, of which one has the device at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay_ipu import vendor
from torchrelay_ipu.batches import Call, Form
from torchrelay_ipu.optimizers import settings
from torchrelay_ipu.step import TracedStep


@dataclass
class Program:
    """A step and PopTorch's wrapper of it.

    Attributes:
        step: what is traced.
        model: the wrapper.
        form: what it was compiled for.
        parts: micro-batches in a call.
        optimizer: what is compiled into it; None for inference.
        sent: settings of the optimizer that the device has.
    """

    step: TracedStep
    model: Any
    form: Form
    parts: int
    optimizer: Optimizer | None = None
    sent: list[dict[str, Any]] = field(default_factory=list)

    def run(self, call: Call) -> list[torch.Tensor]:
        """The outputs of all micro-batches, a tensor for each, in the formats that the step gave them."""
        self._forward_settings()
        found = vendor.call(self.model, call.tensors)
        return [
            tensor.to(dtype) for tensor, dtype in zip(found, self.step.trace.types, strict=True)
        ]

    def _forward_settings(self) -> None:
        """The device keeps the optimizer's settings of the last time that it was told."""
        if self.optimizer is not None and (now := settings(self.optimizer)) != self.sent:
            vendor.set_optimizer(self.model, self.optimizer)
            self.sent = now

    def release(self) -> None:
        """Destroy the wrapper, and leave the user's module without one."""
        vendor.release(self.model, self.step.module)

    def result(self, outputs: list[torch.Tensor]) -> Any:
        """What the step returned, of the whole call: numbers as their mean, everything else along the first axis."""
        dims = self.step.trace.dims
        return self.step.trace.put(
            [_mean(each) if not dim else each for each, dim in zip(outputs, dims, strict=True)]
        )

    def logged(self, outputs: list[torch.Tensor]) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Each value that the step logs, once for each batch of the user's in their order, with its options."""
        number = self.form.number
        for batch in range(number):
            for each in self.step.trace.logged:
                if each.at is None:
                    yield each.name, each.value, each.options
                else:
                    values = outputs[each.at].reshape(number, self.parts // number)[batch]
                    yield each.name, _combined(values, each.options.get("reduce_fx")), each.options


class Programs:
    """The compiled steps of a run: one for training, and one for each step and shape of evaluation.

    Attributes:
        random: the device's random state in training, where it is to be taken up.
    """

    def __init__(self) -> None:
        self.training: Program | None = None
        self.inference: dict[Hashable, Program] = {}
        self.active: Program | None = None
        self.random: Any = None

    # --- who has the device -----------------------------------------------------------------------------

    def activate(self, program: Program, call: Call) -> None:
        """Give the device to one of them, and compile it if that is its first call."""
        if self.active is not program:
            self.release()
        self.active = program
        if not vendor.compiled(program.model):
            # Python runs the step now, and what it draws is no part of the run's random numbers.
            with torch.random.fork_rng(devices=[]):
                vendor.compile_for(program.model, call.tensors)
            if program.optimizer is not None and self.random is not None:
                vendor.set_random_state(program.model, self.random)
        elif not vendor.attached(program.model):
            vendor.attach(program.model)

    def release(self) -> None:
        """Take the device from whoever has it; its weights and state return to the host."""
        program, self.active = self.active, None
        if program is not None and vendor.attached(program.model):
            vendor.detach(program.model)

    # --- coming and going -------------------------------------------------------------------------------

    def train(self, program: Program) -> None:
        """Let another step be the one that trains; a module can be wrapped once only."""
        self.training = program

    def retire(self) -> None:
        """Give up the step that trains; weights, optimizer state and random state stay."""
        program, self.training = self.training, None
        if program is None:
            return
        try:
            if self.active is program:
                self.random = self.random_state(program)
                self.release()
            elif vendor.compiled(program.model):
                self.random = self.random_state(program)
        finally:
            program.release()

    def close(self) -> None:
        """Give up all, also where one of them fails, as on a lost device.

        Raises:
            IPUError: one has failed; the last, with those before it as its context.
        """
        evaluating, self.inference = self.inference, {}
        with ExitStack() as closing:
            for program in evaluating.values():
                closing.callback(program.release)
            closing.callback(self.release)
            closing.callback(self.retire)

    # --- state ------------------------------------------------------------------------------------------

    def fetch(self) -> None:
        """Copy weights that are newer on the device to the host."""
        if self.training is not None and vendor.compiled(self.training.model):
            vendor.fetch_weights(self.training.model)

    def renew(self) -> None:
        """Let the device have the host's weights; one that is not attached gets them when it is."""
        if self.active is not None and vendor.attached(self.active.model):
            vendor.send_weights(self.active.model)

    def random_state(self, program: Program | None = None) -> Any:
        """The device's random state in training; what is to be taken up where nothing has run."""
        program = program or self.training
        if program is None or not vendor.compiled(program.model):
            return self.random
        return vendor.random_state(program.model)


def _average(values: torch.Tensor) -> torch.Tensor:
    # All parts of a batch have the same number of rows, so their weights are the same.
    return (values if values.is_floating_point() else values.float()).mean()


_COMBINED: dict[Any, Callable[[torch.Tensor], torch.Tensor]] = {
    **dict.fromkeys(("sum", sum, torch.sum), torch.sum),
    **dict.fromkeys(("min", min, torch.min), torch.min),
    **dict.fromkeys(("max", max, torch.max), torch.max),
}
"""`reduce_fx` of `log` -> what makes one value of a batch's parts.

All others are means, or are refused by `log`.
"""


def _combined(values: torch.Tensor, reduce_fx: Any) -> torch.Tensor:
    key = reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx
    return _COMBINED.get(key, _average)(values)


def _mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean() if values.is_floating_point() else values[-1]
