"""When fit validates."""

from __future__ import annotations

from torchrelay.errors import ConfigurationError
from torchrelay.trainer.options import Options


class ValidationSchedule:
    """Says after which training batches to validate.

    Args:
        options: `val_check_interval` and `check_val_every_n_epoch`.
        number: training batches of an epoch; None when that is not known.

    Attributes:
        inside: whether it may be due before an epoch's last batch.

    Raises:
        ConfigurationError: the interval is longer than an epoch, or a fraction of one of unknown length.
    """

    def __init__(self, options: Options, number: int | None) -> None:
        self._epochs = options.epochs_to_validation
        self._every = _batches(options, number)
        self.inside = self._every is not None

    def due(self, batch: int, batches: int, epoch: int, *, last: bool) -> bool:
        """Whether to validate now.

        Args:
            batch: batches done in the epoch.
            batches: batches done in all.
            epoch: epochs completed.
            last: whether the epoch is at its end.
        """
        if self._every is not None and not batch:
            return False  # an epoch that a hook has ended at its beginning
        if self._epochs is None:
            return batches % (self._every or 1) == 0
        if (epoch + 1) % self._epochs:
            return False
        return last if self._every is None else batch % self._every == 0


def _batches(options: Options, number: int | None) -> int | None:
    """The interval in batches; None for the end of each epoch."""
    interval = options.validation_interval
    if isinstance(interval, int):
        if options.epochs_to_validation is not None and number is not None and interval > number:
            raise ConfigurationError(
                f"val_check_interval={interval} is more than the {number} training batches of an epoch, so fit would "
                f"never validate; give at most {number}, or count batches through all epochs with "
                "check_val_every_n_epoch=None"
            )
        return interval
    if interval == 1.0:
        return None
    if number is None:
        raise ConfigurationError(
            f"val_check_interval={interval} asks for a fraction of training data that has no length; give a number of "
            "batches"
        )
    return max(1, int(number * interval))
