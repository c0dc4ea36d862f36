"""ProcessGroupStrategy: one process a device, connected by a process group of torch.distributed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Literal, get_args

from torchrelay.collectives.collectives import Collectives
from torchrelay.collectives.torch_distributed import TorchCollectives
from torchrelay.environments.local import LocalEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers.launcher import Launcher
from torchrelay.launchers.multiprocess import MultiProcessingLauncher
from torchrelay.launchers.script import ScriptLauncher
from torchrelay.strategies.parallel import ParallelStrategy
from torchrelay.strategies.plan import Needs

StartMethod = Literal["script", "spawn", "fork"]


class ProcessGroupStrategy(ParallelStrategy):
    """One process a device, connected by a process group of torch.distributed.

    Args:
        start_method: how processes come into being when nobody has made them: "script" runs this script again in
            each, "spawn" and "fork" start them from this one.
        process_group_backend: backend of torch.distributed; the accelerator's when None.
        timeout: how long a collective may wait; torch's default when None.
        components: see `ParallelStrategy`.

    Raises:
        ConfigurationError: an unknown start method, or options for collectives that the user gave ready-made.
    """

    def __init__(
        self,
        *,
        start_method: StartMethod = "script",
        process_group_backend: str | None = None,
        timeout: timedelta | None = None,
        **components: Any,
    ) -> None:
        super().__init__(**components)
        if start_method not in get_args(StartMethod):
            raise ConfigurationError(
                f"start_method={start_method!r} must be one of {', '.join(get_args(StartMethod))}"
            )
        self.start_method: StartMethod = start_method
        self.process_group_backend = process_group_backend
        self.timeout = timeout
        self._collectives_given = components.get("collectives") is not None
        if self._collectives_given:
            self._refuse_beside_collectives()

    def _refuse_beside_collectives(self) -> None:
        for name in ("process_group_backend", "timeout"):
            if getattr(self, name) is not None:
                raise ConfigurationError(
                    f"{name} and collectives are both given to {type(self).__name__}, and {name} is for those that it "
                    f"makes itself; leave one out, or give collectives=TorchCollectives(backend=..., timeout=...)"
                )

    def default_collectives(self) -> Collectives:
        """torch.distributed, with the backend of the accelerator unless one was given."""
        backend = self.process_group_backend or self.accelerator.process_group_backend
        return TorchCollectives(backend=backend, timeout=self.timeout)

    def default_launcher(self) -> Launcher | None:
        """The strategy's own on this machine, also in the processes it made; none where a cluster makes them."""
        environment = self.cluster_environment
        return (
            self.local_launcher(environment) if isinstance(environment, LocalEnvironment) else None
        )

    def local_launcher(self, environment: LocalEnvironment) -> Launcher:
        """Makes this machine's processes, by the start method."""
        if self.start_method == "script":
            return ScriptLauncher(environment, self.processes_per_node)
        return MultiProcessingLauncher(environment, self.processes_per_node, self.start_method)

    def refusals(self, needs: Needs) -> list[str]:
        """No accelerator over which torch.distributed cannot communicate."""
        reasons = super().refusals(needs)
        backend = self.process_group_backend or self.accelerator.process_group_backend
        if not backend and not self._collectives_given:
            reasons.append(
                f"torch.distributed has no backend for accelerator {self.accelerator.name!r}; take devices=1, or name "
                "one by process_group_backend"
            )
        return reasons
