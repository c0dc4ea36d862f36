"""The state of a strategy in the canonical form: by parameter name, complete on rank 0."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchrelay.checkpoint import own_forms
from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.checkpoint.model_state import load_model_state
from torchrelay.checkpoint.optimizer_names import from_names, to_names
from torchrelay.strategies.ranks import Ranked


class Stateful(Ranked):
    """Gives and takes state in the canonical form, so that another strategy can go on from it.

    The defaults suit a backend whose ranks each hold the whole model; a sharded one gathers.
    """

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """The user's module, unwrapped."""

    def model_state(self) -> dict[str, Any]:
        """The module's state by parameter name. Collective; complete on rank 0."""
        return self.module.state_dict()

    def load_model_state(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Load a state by parameter name, whatever strategy wrote it.

        Raises:
            CheckpointError: it is another model's; the message names the keys.
        """
        load_model_state(self.module, state, strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state by parameter name. Collective; complete on rank 0."""
        return to_names(optimizer, self.parameter_names())

    def load_optimizer_state(self, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
        """Load a state by parameter name (integer keys are accepted), whatever strategy wrote it."""
        optimizer.load_state_dict(from_names(optimizer, state, self.parameter_names()))

    def parameter_names(self) -> dict[nn.Parameter, str]:
        """The name under which each parameter travels."""
        return {parameter: name for name, parameter in self.module.named_parameters()}

    @property
    def recovers_from(self) -> str | None:
        """Where a run goes on that is begun again in the same processes, because some of the others have changed.

        A path that `load_checkpoint` takes, in the place of the user's; None in a run that is begun for the first time.
        """
        return None

    @property
    def saves_sharded(self) -> bool:
        """Whether `save_checkpoint` writes weights and optimizers in the backend's own form, each rank its part.

        What it is given then has neither `state_dict` nor `optimizer_states`, unless weights alone are to be saved.
        """
        return False

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Write a checkpoint that all ranks have made together. Collective.

        Returns when it is written, or, with an asynchronous checkpoint IO, when it may change no more.
        """
        if self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)
        self.collectives.barrier("save_checkpoint")

    def load_checkpoint(self, path: Path, *, weights_only: bool = True) -> dict[str, Any]:
        """Read a checkpoint, on every rank, once everything that is being written is there. Collective.

        One in another backend's form is read as `torchrelay checkpoint convert` reads it.
        """
        self.checkpoint_io.wait()
        self.collectives.barrier("load_checkpoint")
        form = own_forms.form_of(path)
        if form is not None:
            return own_forms.read(form, path)
        return self.checkpoint_io.load_checkpoint(
            path, map_location="cpu", weights_only=weights_only
        )

    def remove_checkpoint(self, path: Path) -> None:
        """Remove a checkpoint, once."""
        if self.is_global_zero:
            self.checkpoint_io.remove_checkpoint(path)
