"""Strategies that come to other numbers than one process, each in one kind of model alone."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from wrong_base import PairStrategy

from torchrelay.plugin import Capabilities, Capability
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.strategies.plan import Plan
from torchrelay.testing import Subject


class NoMomentum(SingleDeviceStrategy):
    """Has an SGD of its own, without momentum."""

    def build(self, build: Any) -> None:
        super().build(build)
        for group in self.optimizers[0].param_groups:
            if "momentum" in group:
                group["momentum"] = 0.0


class NoDecay(SingleDeviceStrategy):
    """Has an AdamW of its own, without weight decay."""

    def build(self, build: Any) -> None:
        super().build(build)
        for group in self.optimizers[0].param_groups:
            group["weight_decay"] = 0.0


class Unties(SingleDeviceStrategy):
    """Moves each parameter by itself."""

    def place(self) -> None:
        super().place()
        for part in self.module.modules():
            for name, parameter in list(part.named_parameters(recurse=False)):
                setattr(
                    part, name, nn.Parameter(parameter.clone().detach(), parameter.requires_grad)
                )


class Thaws(SingleDeviceStrategy):
    """Trains everything."""

    def build(self, build: Any) -> None:
        self.module.requires_grad_(True)
        super().build(build)


class OwnStatistics(PairStrategy):
    """Each rank evaluates with its own buffers."""

    def stage(self, name: str) -> Any:
        return nullcontext()


class IgnoresSync(PairStrategy):
    """Says that it synchronises batch norm."""

    capabilities = Capabilities(
        declared={
            capability: declaration
            for capability, declaration in PairStrategy.capabilities.declared.items()
            if capability is not Capability.SYNC_BATCHNORM
        }
    )


class DropsLast(SingleDeviceStrategy):
    """Has no use for a batch of another size."""

    def process_dataloader(self, loader: Iterable[Any], stage: str) -> Iterable[Any]:
        batches = list(loader)
        return [each for each in batches if len(each[0]) == len(batches[0][0])]


class DividesNobody(SingleDeviceStrategy):
    """Takes the division of losses over, and forgets it."""

    def negotiate(self, plan: Plan) -> Plan:
        return replace(plan, loss_divisor=1)


class NoNorm(SingleDeviceStrategy):
    """Says that it clips by norm."""

    def negotiate(self, plan: Plan) -> Plan:
        own = plan.clip is not None and plan.clip.algorithm == "norm"
        return replace(plan, clip=None) if own else plan


class NoValue(SingleDeviceStrategy):
    """Says that it clips by value."""

    def negotiate(self, plan: Plan) -> Plan:
        own = plan.clip is not None and plan.clip.algorithm == "value"
        return replace(plan, clip=None) if own else plan


class AveragesLate(PairStrategy):
    """Averages gradients after the hooks have looked at them, unless they are to be clipped."""

    def negotiate(self, plan: Plan) -> Plan:
        self.clips = plan.clip is not None
        return plan

    def reduce_gradients(self, optimizer: Any) -> None:
        if self.clips or self.precision_plugin.name.startswith("16"):
            super().reduce_gradients(optimizer)

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        def whole() -> Any:
            result = closure()
            if not (self.clips or self.precision_plugin.name.startswith("16")):
                PairStrategy.reduce_gradients(self, optimizer)
            return result

        return super().optimizer_step(optimizer, whole)


class NeverNone(PairStrategy):
    """Takes every missing gradient for zero, by which an optimizer with memory moves weights."""

    def average(self, parameter: torch.Tensor) -> None:
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = self.collectives.reduce(own, "mean")


class AlwaysHalf(SingleDeviceStrategy):
    """Keeps weights in 16 bits where it should compute in them alone."""

    def place(self) -> None:
        super().place()
        if self.precision_plugin.name == "bf16-mixed":
            self.module.bfloat16()


def _subject(kind: type, devices: int = 1) -> Subject:
    path = (str(Path(__file__).parent),)
    name = f"wrong_numerics:{kind.__name__}"
    return Subject(name, devices=devices, accelerator="cpu", python_path=path)


MUTATIONS = {
    "sgd": _subject(NoMomentum),
    "adamw": _subject(NoDecay),
    "tied_weights": _subject(Unties),
    "frozen_parameters": _subject(Thaws),
    "batch_norm": _subject(OwnStatistics, 2),
    "sync_batchnorm": _subject(IgnoresSync, 2),
    "uneven_last_batch": _subject(DropsLast),
    "accumulation": _subject(DividesNobody),
    "clip_by_norm": _subject(NoNorm),
    "clip_by_value": _subject(NoValue),
    "gradients_visible": _subject(AveragesLate, 2),
    "unused_parameters": _subject(NeverNone, 2),
    "each_precision": _subject(AlwaysHalf),
}
