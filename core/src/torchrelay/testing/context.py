"""Context: what a program of the kit is given, in each process that it runs in."""

from __future__ import annotations

import json
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchrelay.plugin.targets import load_target
from torchrelay.testing.subject import Subject

KIT_VARIABLE = "TORCHRELAY_KIT_PID"


@dataclass(frozen=True)
class Context:
    """Makes Trainers for the subject, and keeps what ranks leave for the judgement.

    May be pickled, so that modules and callbacks can carry it into other processes.

    Args:
        subject: what is examined.
        folder: where results go.
    """

    subject: Subject
    folder: Path

    @property
    def is_first(self) -> bool:
        """Whether this is the process that the kit started, rather than one that a strategy did."""
        return str(os.getppid()) == os.environ.get(KIT_VARIABLE)

    def strategy(self) -> Any:
        """The strategy for a Trainer: the alias, or a new instance."""
        if not self.subject.is_class:
            return self.subject.strategy
        return load_target(self.subject.strategy)(**self.subject.presets)

    def trainer(self, **options: Any) -> Any:
        """A Trainer for the subject that is silent and keeps nothing unless told otherwise."""
        from torchrelay.trainer.trainer import Trainer

        subject = self.subject
        quiet = {
            "max_epochs": 1,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
            "enable_model_summary": False,
            "logger": False,
            "num_sanity_val_steps": 0,
            "default_root_dir": str(self.folder),
        }
        place = {
            "accelerator": subject.accelerator,
            "devices": subject.devices,
            "num_nodes": subject.num_nodes,
        }
        if "strategy" not in options:
            options["strategy"] = self.strategy()
        return Trainer(**{**quiet, **place, **subject.trainer, **options})

    def leave(self, name: str, rank: int, value: Any) -> None:
        """Leave a rank's result for the judgement; its tensors arrive on the CPU."""
        from torchrelay.tree import map_tensors

        value = map_tensors(value, lambda tensor: tensor.detach().cpu().clone())
        self._write(f"{name}-{rank}.pickle", pickle.dumps(value))

    def write(self, name: str, value: Any) -> None:
        """Leave a result of the program as a whole, which no rank in particular has; without torch."""
        self._write(f"{name}.pickle", pickle.dumps(value))

    def leave_error(self, error: BaseException) -> None:
        """Leave the exception that the program ends by in this process."""
        seen = {
            "kinds": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "traceback": "".join(traceback.format_exception(error)),
        }
        self._write(f"error-{os.getpid()}.json", json.dumps(seen).encode())

    def _write(self, name: str, content: bytes) -> None:
        # Whole or not at all: the process may be ended at any moment.
        part = self.folder / f"{name}.{os.getpid()}"
        part.write_bytes(content)
        part.replace(self.folder / name)


def in_each_rank(context: Context, body: Callable[[Any, Context], Any]) -> None:
    """Run `body(strategy, context)` in every process of the subject, connected, without a Trainer's loop.

    Args:
        context: the program's.
        body: a function at the top level of a module; it is collective.
    """
    strategy = context.trainer().strategy
    if strategy.launcher is None:
        _connected(strategy, body, context)
    else:
        strategy.launcher.launch(_connected, strategy, body, context)


def _connected(strategy: Any, body: Callable[[Any, Context], Any], context: Context) -> None:
    from torchrelay.strategies import Plan

    strategy.negotiate(Plan())
    strategy.setup_environment()
    try:
        body(strategy, context)
    finally:
        strategy.teardown()
