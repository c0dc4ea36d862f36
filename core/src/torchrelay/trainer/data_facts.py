"""What a Trainer tells of the data of its run."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torchrelay.plugin.specs import Capability, Support
from torchrelay.seed import current_seed
from torchrelay.trainer.data import Portion
from torchrelay.trainer.options import Options

if TYPE_CHECKING:
    from torchrelay.strategies.strategy import Strategy
    from torchrelay.trainer.session import Session


class DataFacts:
    """The loaders of a run, as this rank reads them, and how many batches they have.

    Attributes:
        options: what was asked for, checked.
        session: the run in this process, or the last one; None before the first.
        strategy: what runs the module.
    """

    options: Options
    session: Session | None
    strategy: Strategy

    @property
    def train_dataloader(self) -> Any:
        """What the module is trained on, as this rank reads it; None if nothing is."""
        return self._loaders("train")

    @property
    def val_dataloaders(self) -> Any:
        """What the module is validated on, as this rank reads it; None if nothing is."""
        return self._loaders("validate")

    @property
    def test_dataloaders(self) -> Any:
        """What the module is tested on, as this rank reads it; None if nothing is."""
        return self._loaders("test")

    @property
    def predict_dataloaders(self) -> Any:
        """What the module predicts, as this rank reads it; None if nothing is."""
        return self._loaders("predict")

    @property
    def num_training_batches(self) -> int | None:
        """Batches of an epoch on this rank; None if that is not known."""
        return next((portion.number for portion in self._opened("train")), None)

    @property
    def num_val_batches(self) -> list[int | float]:
        """Validation batches of each loader; infinite where that is not known."""
        return self._numbers("validate")

    @property
    def num_test_batches(self) -> list[int | float]:
        """Test batches of each loader; infinite where that is not known."""
        return self._numbers("test")

    @property
    def num_predict_batches(self) -> list[int | float]:
        """Prediction batches of each loader; infinite where that is not known."""
        return self._numbers("predict")

    @property
    def num_sanity_val_batches(self) -> list[int | float]:
        """Validation batches of each loader to try before training."""
        steps = self.options.sanity_steps
        return [number if steps < 0 else min(number, steps) for number in self.num_val_batches]

    @property
    def enable_validation(self) -> bool:
        """Whether fit validates."""
        return self.session is not None and self.session.validates

    @property
    def current_batch_indices(self) -> list[int] | None:
        """Places in the data set of the samples being predicted; None where they are not known."""
        return None if self.session is None else self.session.batch_indices

    @property
    def data_seed(self) -> int:
        """Seed of the order in which ranks share shuffled data; equal on all ranks."""
        return current_seed()

    @property
    def allows_uneven_evaluation(self) -> bool:
        """Whether ranks may evaluate different numbers of batches, so that no sample is counted twice."""
        declared = self.strategy.capabilities[Capability.UNEVEN_EVALUATION]
        return declared.support is not Support.UNSUPPORTED

    def _opened(self, stage: str) -> list[Portion]:
        return [] if self.session is None else self.session.loaders.opened(stage)

    def _loaders(self, stage: str) -> Any:
        found = [portion.loader for portion in self._opened(stage)]
        return found[0] if len(found) == 1 else (found or None)

    def _numbers(self, stage: str) -> list[int | float]:
        numbers = [portion.number for portion in self._opened(stage)]
        return [math.inf if number is None else number for number in numbers]
