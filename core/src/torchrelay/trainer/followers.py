"""Which learning-rate schedulers step when."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchrelay.trainer.optimizers import step_scheduler

if TYPE_CHECKING:
    from torchrelay.trainer.session import Session


class Followers:
    """The learning-rate schedulers of a run: those that follow its updates, and those that follow its epochs.

    Under manual optimization there are none, for the module steps its schedulers.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._step: Callable[[Any, Any], Any] = session.own("lr_scheduler_step") or step_scheduler
        configs = session.schedulers if session.module.automatic_optimization else []
        self.of_updates = [config for config in configs if config.interval == "step"]
        self._of_epochs = [config for config in configs if config.interval == "epoch"]

    def follow_updates(self, before: int) -> None:
        """Step after the updates that were made since there were `before`."""
        session = self._session
        for update in range(before + 1, session.progress.global_step + 1):
            for config in self.of_updates:
                if update % config.frequency == 0:
                    config.step(session.values, session.agree, self._step)

    def follow_epoch(self, *, watching: bool) -> None:
        """Step at the end of an epoch: those that watch a metric, or the others, for which validation is too late."""
        session = self._session
        for config in self._of_epochs:
            due = (session.progress.epoch + 1) % config.frequency == 0
            if due and (config.monitor is not None) is watching:
                config.step(session.values, session.agree, self._step)
