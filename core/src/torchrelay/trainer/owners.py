"""Where in a module an object is, so that a rank which did not log it finds its own."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import nn

from torchrelay.errors import ConfigurationError


def attribute_of(owner: nn.Module | None, target: Any) -> str | None:
    """Where in a module an object is, as a dotted name; None if it is not found there."""
    if owner is None:
        return None
    if isinstance(target, nn.Module):
        return next((name for name, part in owner.named_modules() if part is target), None)
    return next((name for name, value in vars(owner).items() if value is target), None)


def object_at(owner: nn.Module | None, name: str, attribute: str) -> Any:
    """The object that another rank has logged.

    Raises:
        ConfigurationError: it is not here.
    """
    try:
        return attrgetter(attribute)(owner)
    except AttributeError:
        raise ConfigurationError(
            f"log({name!r}, an object): another rank's is the attribute {attribute!r} of the module, which this rank's "
            "module has not; give metric_attribute the name of one that is there on every rank"
        ) from None
