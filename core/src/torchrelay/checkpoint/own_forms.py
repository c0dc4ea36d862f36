"""Checkpoints in a form of a backend's own, such as a folder to which each rank adds its part."""

from __future__ import annotations

from typing import Any

from torchrelay.checkpoint.checkpoint_io import Path
from torchrelay.plugin.records import Offer
from torchrelay.plugin.registry import get_registry
from torchrelay.plugin.specs import CheckpointFormatSpec
from torchrelay.plugin.targets import load_target


def form_of(path: Path) -> Offer[CheckpointFormatSpec] | None:
    """The backend's form that something is in; None for a file of torchrelay's, or what no installed plugin knows."""
    for offer in get_registry().checkpoint_formats:
        if load_target(offer.spec.recognizes)(path):
            return offer
    return None


def read(form: Offer[CheckpointFormatSpec], path: Path) -> dict[str, Any]:
    """A checkpoint in a backend's form as the canonical one, whole in memory. Nothing that it says is executed.

    Raises:
        CheckpointError: it cannot be read.
    """
    checkpoint: dict[str, Any] = load_target(form.spec.target)(path)
    return checkpoint
