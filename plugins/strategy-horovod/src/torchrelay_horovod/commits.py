"""ElasticCommit: keeps what an elastic job goes on from when ranks come or go."""

from __future__ import annotations

from typing import Any

from torchrelay.callbacks import Callback
from torchrelay.errors import ConfigurationError
from torchrelay_horovod.elastic import HostsChangedError, hosts

COMMIT = "horovod-commit"
"""The path under which the strategy keeps the last commit, in memory."""


class ElasticCommit(Callback):
    """Commits the state of a run: what is trained since the last commit is done again when a rank is lost.

    A commit is a checkpoint in torchrelay's form, kept in the memory of every rank. After it the run begins again if
    Horovod has found hosts that may join. Outside of an elastic job there is nothing to do, and it does nothing.

    Args:
        every_n_train_steps: updates between two commits; one more is made when training begins.
    """

    def __init__(self, every_n_train_steps: int = 100) -> None:
        if not isinstance(every_n_train_steps, int) or every_n_train_steps < 1:
            raise ConfigurationError(
                f"every_n_train_steps={every_n_train_steps!r} must be a whole number from 1"
            )
        self.every_n_train_steps = every_n_train_steps
        self._committed_at = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Commit what training begins from."""
        self._committed_at = -1
        self.commit(trainer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Commit, if it is time."""
        step = trainer.global_step
        if step != self._committed_at and step % self.every_n_train_steps == 0:
            self.commit(trainer)

    def commit(self, trainer: Any) -> None:
        """Keep the state as it is now. Collective.

        Raises:
            HostsChangedError: hosts may join, or are to leave; the run begins again with those that there are.
        """
        if not getattr(trainer.strategy.cluster_environment, "elastic", False):
            return
        self._committed_at = trainer.global_step
        trainer.save_checkpoint(COMMIT)
        if trainer.strategy.collectives.any(hosts.have_changed()):
            raise HostsChangedError("hosts have come or gone; the run begins again from its commit")
