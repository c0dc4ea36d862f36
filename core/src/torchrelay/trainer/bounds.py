"""Checks of the Trainer's arguments that are numbers."""

from __future__ import annotations

from typing import Any

from torchrelay.errors import ConfigurationError

Limit = int | float
"""So many batches (int), or a fraction of them (float)."""


def check_least(value: Any, least: int, name: str) -> None:
    """Refuse what is no whole number, or too small.

    Raises:
        ConfigurationError: it is.
    """
    if not is_whole(value) or value < least:
        raise ConfigurationError(f"{name}={value!r} must be a whole number from {least}")


def check_flag(value: Any, name: str, *, optional: bool = False) -> None:
    """Refuse what is neither True nor False; None passes for an optional one.

    Raises:
        ConfigurationError: it is.
    """
    if not isinstance(value, bool) and not (optional and value is None):
        raise ConfigurationError(
            f"{name}={value!r} must be True or False{' or None' if optional else ''}"
        )


def check_limit(value: Any, name: str) -> None:
    """Refuse a limit that is neither a number of batches nor a fraction of them.

    Raises:
        ConfigurationError: it is not.
    """
    whole = is_whole(value) and value >= 0
    fraction = isinstance(value, float) and 0.0 <= value <= 1.0
    if value is not None and not whole and not fraction:
        raise ConfigurationError(
            f"{name}={value!r} must be a number of batches from 0, or a fraction from 0.0 to 1.0"
        )


def check_validation(interval: Any, epochs: int | None) -> None:
    """Refuse an interval between validations that is none, or that has no meaning over epochs.

    Raises:
        ConfigurationError: it is one of those.
    """
    whole = is_whole(interval) and interval >= 1
    fraction = isinstance(interval, float) and 0.0 < interval <= 1.0
    if interval is not None and not whole and not fraction:
        raise ConfigurationError(
            f"val_check_interval={interval!r} must be a number of batches from 1, or a fraction of an epoch above 0.0 "
            "and up to 1.0"
        )
    if epochs is None and not whole:
        raise ConfigurationError(
            f"check_val_every_n_epoch=None counts batches through all epochs, and val_check_interval={interval!r} is "
            "no number of them; give one, as val_check_interval=1000"
        )


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)
