"""A backend that wraps the optimizer: gradients travel while backward runs, and are there only once waited for.

The strategy below knows torchrelay's public contract and nothing else of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer

from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import Build, Plan, SingleDeviceStrategy


class ReducingOptimizer:
    """Mixed into an optimizer's class: sends each gradient off after `passes` backward passes.

    A gradient under way is NaN in `.grad`. `synchronize` waits for all, and sends those that had fewer passes.
    """

    param_groups: list[dict[str, Any]]

    def begin(self, passes: int) -> None:
        self.passes = passes
        self.under_way: dict[Any, torch.Tensor] = {}
        self.synchronized = False
        self.waits = True
        self.parameters = [p for group in self.param_groups for p in group["params"]]
        self.left = dict.fromkeys(self.parameters, passes)
        self.hooks = [p.register_post_accumulate_grad_hook(self.arrived) for p in self.parameters]

    def end(self) -> None:
        for hook in self.hooks:
            hook.remove()

    def arrived(self, parameter: Any) -> None:
        if parameter in self.under_way:
            raise AssertionError(f"more than {self.passes} backward passes before a step")
        self.synchronized = False
        self.left[parameter] -= 1
        if self.left[parameter] == 0:
            self.send(parameter)

    def send(self, parameter: Any) -> None:
        self.under_way[parameter] = parameter.grad.clone()
        parameter.grad.fill_(torch.nan)

    def synchronize(self) -> None:
        for parameter in self.parameters:
            if parameter not in self.under_way and self.is_new(parameter):
                self.send(parameter)
        for parameter, gradient in self.under_way.items():
            parameter.grad.copy_(gradient)
        self.under_way.clear()
        self.left = dict.fromkeys(self.parameters, self.passes)
        self.synchronized = True

    def is_new(self, parameter: Any) -> bool:
        return self.left[parameter] < self.passes

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        self.waits = False
        try:
            yield
        finally:
            self.waits = True

    def step(self) -> None:
        if self.waits and self.synchronized:
            raise AssertionError("gradients were waited for already; step under skip_synchronize")
        if self.waits:
            self.synchronize()
        if any(self.is_new(parameter) for parameter in self.parameters):
            raise AssertionError("gradients were not waited for")
        super().step()
        self.synchronized = False

    def zero_grad(self) -> None:
        if self.under_way:
            raise AssertionError("zero_grad between backward and step")
        super().zero_grad()
        self.left = dict.fromkeys(self.parameters, self.passes)


def reducing(optimizer: Optimizer, passes: int) -> Any:
    """A new optimizer of the same kind over the same groups; its state is empty."""
    kind = type(optimizer)
    made = type(f"Reducing{kind.__name__}", (ReducingOptimizer, kind), {})(optimizer.param_groups)
    made.begin(passes)
    return made


class WrappedStrategy(SingleDeviceStrategy):
    """Swaps the optimizer, waits for gradients in `reduce_gradients` and steps without waiting again."""

    capabilities = Capabilities(
        declared={
            Capability.MULTIPLE_OPTIMIZERS: unsupported(
                "backward would send the others' gradients too"
            ),
            Capability.CLOSURE_OPTIMIZERS: unsupported(
                "gradients are reduced before a closure runs"
            ),
        }
    )

    passes = 1

    def __init__(self, **components: Any) -> None:
        super().__init__(**components)
        self.ends: list[Callable[[], None]] = []

    def negotiate(self, plan: Plan) -> Plan:
        self.passes = plan.accumulate
        return plan

    def build(self, build: Build) -> None:
        super().build(build)
        for index, optimizer in enumerate(self.optimizers):
            made = reducing(optimizer, self.passes)
            self.ends.append(made.end)
            self.swap_optimizer(index, made)

    def reduce_gradients(self, optimizer: Any) -> None:
        optimizer.synchronize()

    def zero_grad(self, optimizer: Any) -> None:
        if optimizer.under_way:  # of a window whose update was skipped
            optimizer.synchronize()
        optimizer.zero_grad()

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any]) -> Any:
        result = closure()
        with optimizer.skip_synchronize():
            self.precision_plugin.update(optimizer)
        return result

    def teardown(self) -> None:
        while self.ends:  # none, if setup was refused half-way
            self.ends.pop()()
        super().teardown()
