"""Strategies that are composed well, but for one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrong_base import PairStrategy

from torchrelay.plugin import Capabilities, Capability, unsupported
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject


class LaunchesItself(SingleDeviceStrategy):
    """Its launcher is none of the contract's."""

    def bind(self, parts: Any) -> None:
        super().bind(parts)
        self._parts["launcher"] = Sentry()


class Sentry:
    """Runs a function, and is no Launcher."""

    returns_to_caller = False

    def launch(self, function: Any, *args: Any) -> Any:
        return function(*args)


class TakesNothing(SingleDeviceStrategy):
    """Swallows the precision that a user gives."""

    def __init__(self, *, precision_plugin: Any = None, **components: Any) -> None:
        super().__init__(**components)


class AllAreFirst(PairStrategy):
    """Every rank takes itself for rank 0."""

    is_global_zero = True


class AsksTheTrainer(SingleDeviceStrategy):
    """Reads an argument of the Trainer's."""

    def place(self) -> None:
        if self.module.trainer.max_epochs:
            super().place()


class DoesNotRefuse(SingleDeviceStrategy):
    """Declares that it is for one machine, and says nothing when there are two."""

    capabilities = Capabilities(
        declared={Capability.MULTIPLE_NODES: unsupported("it is one process")}
    )

    def refusals(self, needs: Any) -> list[str]:
        return []


def _subject(kind: str, devices: int = 1) -> Subject:
    path = (str(Path(__file__).parent),)
    return Subject(f"wrong_composition:{kind}", devices, accelerator="cpu", python_path=path)


MUTATIONS = {
    "has_its_parts": _subject("LaunchesItself"),
    "takes_parts_of_the_user": _subject("TakesNothing"),
    "knows_its_ranks": _subject("AllAreFirst", devices=2),
    "needs_no_trainer": _subject("AsksTheTrainer"),
    "spans_machines": _subject("DoesNotRefuse"),
}
