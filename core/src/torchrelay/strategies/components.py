"""What a strategy is composed of, and how the parts come together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

from torchrelay.accelerators.accelerator import Accelerator
from torchrelay.arguments import answering
from torchrelay.checkpoint.checkpoint_io import CheckpointIO
from torchrelay.collectives.collectives import Collectives
from torchrelay.environments.environment import ClusterEnvironment
from torchrelay.errors import ConfigurationError
from torchrelay.launchers.launcher import Launcher
from torchrelay.precision.precision import Precision

Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The components of a strategy that a resolution found; each fills a place that is still empty."""

    accelerator: Accelerator
    precision_plugin: Precision
    checkpoint_io: CheckpointIO
    cluster_environment: ClusterEnvironment
    devices: tuple[int, ...] = (0,)
    num_nodes: int = 1
    sync_batchnorm: bool = False


class Composed(ABC):
    """The parts of a strategy: given to the constructor, or filled in once by `bind`.

    Args:
        accelerator: the kind of device; like every component, resolution supplies it when None.
        precision_plugin: the numeric formats.
        checkpoint_io: how checkpoints are written and read.
        collectives: how processes communicate.
        launcher: how processes come into being.
        cluster_environment: who started the processes, and which of them this one is.
    """

    @answering
    def __init__(
        self,
        *,
        accelerator: Accelerator | None = None,
        precision_plugin: Precision | None = None,
        checkpoint_io: CheckpointIO | None = None,
        collectives: Collectives | None = None,
        launcher: Launcher | None = None,
        cluster_environment: ClusterEnvironment | None = None,
    ) -> None:
        parts: dict[str, Any] = {
            "accelerator": accelerator,
            "precision_plugin": precision_plugin,
            "checkpoint_io": checkpoint_io,
            "collectives": collectives,
            "launcher": launcher,
            "cluster_environment": cluster_environment,
        }
        self._chosen = {name: part for name, part in parts.items() if part is not None}
        self._parts = dict(self._chosen)
        self._precision = precision_plugin
        self.devices: tuple[int, ...] = ()
        self.num_nodes = 1
        self.sync_batchnorm = False

    def bind(self, parts: Parts) -> None:
        """Fill the components that the user did not give; called before launch, once for each driver.

        What the user gave to the constructor stays.
        """
        self.devices, self.num_nodes = parts.devices, parts.num_nodes
        self.sync_batchnorm = parts.sync_batchnorm
        self._parts = {
            "accelerator": parts.accelerator,
            "precision_plugin": parts.precision_plugin,
            "checkpoint_io": parts.checkpoint_io,
            "cluster_environment": parts.cluster_environment,
            **self._chosen,
        }
        self._precision = self.adapt_precision(self._parts["precision_plugin"])
        if "collectives" not in self._parts:
            self._parts["collectives"] = self.default_collectives()
        if "launcher" not in self._parts:
            self._parts["launcher"] = self.default_launcher()

    def adapt_precision(self, precision: Precision) -> Precision:
        """The form that a precision takes under this backend: itself, unless the backend keeps formats its own way."""
        return precision

    @abstractmethod
    def default_collectives(self) -> Collectives:
        """Collectives to use when the user gave none; the other components are bound."""

    def default_launcher(self) -> Launcher | None:
        """Launcher to use when the user gave none; None when this process is the only one, or not the first."""
        return None

    @property
    def given(self) -> dict[str, object]:
        """The components that the user gave to the constructor, by the Trainer's name for each."""
        names = {"precision_plugin": "precision"}
        ours = ("collectives", "launcher")
        return {names.get(n, n): part for n, part in self._chosen.items() if n not in ours}

    @property
    def accelerator(self) -> Accelerator:
        """The kind of device."""
        accelerator: Accelerator = self._part("accelerator")
        return accelerator

    @property
    def precision_plugin(self) -> Precision:
        """The numeric formats."""
        precision = self._precision  # asked for several times a step
        return bound(precision, "precision_plugin") if precision is None else precision

    @property
    def checkpoint_io(self) -> CheckpointIO:
        """How checkpoints are written and read."""
        checkpoint_io: CheckpointIO = self._part("checkpoint_io")
        return checkpoint_io

    @property
    def cluster_environment(self) -> ClusterEnvironment:
        """Who started the processes, and which of them this one is."""
        environment: ClusterEnvironment = self._part("cluster_environment")
        return environment

    @property
    def collectives(self) -> Collectives:
        """How processes communicate."""
        collectives: Collectives = self._part("collectives")
        return collectives

    @property
    def launcher(self) -> Launcher | None:
        """How processes come into being; None when nobody has to make any."""
        return self._parts.get("launcher")

    def _part(self, name: str) -> Any:
        return bound(self._parts.get(name), name)


def bound(part: Part | None, name: str) -> Part:
    """The part, which must be there by now.

    Raises:
        ConfigurationError: it is not.
    """
    if part is None:
        raise ConfigurationError(
            f"the strategy's {name} is not there yet; call bind() first (a Trainer does), then setup()"
        )
    return part
