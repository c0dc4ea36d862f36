"""TPUSpawnStrategy: a replica for each XLA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, get_args

import torch
from torch.optim import Optimizer

from torchrelay.collectives import Collectives
from torchrelay.environments import LocalEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers import Launcher
from torchrelay.launchers.failure import write_report
from torchrelay.plugin import Capabilities
from torchrelay.strategies import Needs, ParallelStrategy, share_buffers
from torchrelay_tpu import vendor
from torchrelay_tpu.collectives import XLACollectives
from torchrelay_tpu.environment import replica
from torchrelay_tpu.launcher import StartMethod, XLALauncher
from torchrelay_tpu.lazy import LazyDevice
from torchrelay_tpu.plugin import REPLICAS, SUMS_NO_BFLOAT16
from torchrelay_tpu.probe import on_processor


class TPUSpawnStrategy(LazyDevice, ParallelStrategy):
    """A replica for each XLA device, each with the whole model; gradients are averaged in the graph of the step.

    Args:
        start_method: "fork" copies this process; "spawn" starts fresh interpreters, which import the main module.
        debug: let XLA explain on stderr why it compiles and runs.
        components: see `torchrelay.strategies.ParallelStrategy`.

    Raises:
        ConfigurationError: an unknown start method.
    """

    capabilities: ClassVar[Capabilities] = REPLICAS

    def __init__(
        self, *, start_method: StartMethod = "fork", debug: bool = False, **components: Any
    ) -> None:
        super().__init__(**components)
        if start_method not in get_args(StartMethod):
            raise ConfigurationError(
                f"start_method={start_method!r} must be one of {', '.join(get_args(StartMethod))}"
            )
        self.start_method = start_method
        self.debug = debug
        self._device: torch.device | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the run behind."""
        return {**super().__getstate__(), "_device": None}

    def default_collectives(self) -> Collectives:
        """XLA's."""
        return XLACollectives()

    def default_launcher(self) -> Launcher | None:
        """XLA's own; one replica runs in this process."""
        environment = self.cluster_environment
        if self.processes_per_node == 1 or not isinstance(environment, LocalEnvironment):
            return None
        return XLALauncher(
            environment, self.processes_per_node, self.start_method, debug=self.debug
        )

    def refusals(self, needs: Needs) -> list[str]:
        """One replica, or one for each device, and no arithmetic that XLA has not between them."""
        reasons = super().refusals(needs)
        if self.processes_per_node > 1:
            return [*reasons, *self._refused_between_replicas(needs)]
        if self.debug:
            reasons.append(
                "debug=True is for replicas that XLA starts; for one, start the program with PT_XLA_DEBUG_LEVEL=2"
            )
        return reasons

    def _refused_between_replicas(self, needs: Needs) -> Iterator[str]:
        there = self.accelerator.count()
        if self.processes_per_node != there:
            yield (
                f"devices={self.processes_per_node}: XLA starts one replica, or one for each of the {there} devices "
                f"here; take devices={there} or devices=1"
            )
        if self.parallel_devices is not None:
            yield "parallel_devices: XLA says which device a replica has; leave them out"
        if needs.precision == "bf16-true" and on_processor():
            yield f"precision='bf16-true': {SUMS_NO_BFLOAT16}"

    @property
    def root_device(self) -> torch.device:
        """The device of this replica, which XLA tells once it runs."""
        if self.processes_per_node > 1:
            return self._device or self.accelerator.device(0)
        return super().root_device

    def setup_environment(self) -> None:
        """Ask XLA for this replica's device, and meet the others."""
        if replica() is not None:
            self._device = vendor.device()
        super().setup_environment()

    def on_exception(self, error: BaseException) -> None:
        """Report it before anything else is done: what is pending here would wait for the others for ever."""
        seat = replica()
        if seat is not None:
            write_report(seat, error)
            self.abandon()
        super().on_exception(error)

    def place(self) -> None:
        """Move the model, and give every replica rank 0's weights and buffers."""
        super().place()
        vendor.share(self.module)

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """Every replica evaluates with rank 0's buffers."""
        if name != "train":
            share_buffers(self.collectives, self.module)
        return super().stage(name)

    def reduce_gradients(self, optimizer: Optimizer) -> None:
        """Average gradients, as part of the step's graph.

        Raises:
            ConfigurationError: a parameter that is to be trained has none, so that this replica's graph is another one.
        """
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.requires_grad and parameter.grad is None:
                    raise ConfigurationError(
                        f"{self.parameter_names().get(parameter, 'a parameter')} is unused in this update, on rank "
                        f"{self.global_rank} at least, and replicas have to run one graph; add 0 * parameter.sum() "
                        "to the loss, or freeze it by requires_grad_(False)"
                    )
        vendor.reduce_gradients(optimizer)
