"""A module's steps as functions of a batch and its index, whichever of the documented arguments they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torchrelay.errors import ConfigurationError

Step = Callable[..., Any]

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


@dataclass(frozen=True)
class Shape:
    """Which arguments a step takes.

    Attributes:
        positional: 2 for batch and index, 1 for the batch alone.
        keywords: arguments that it has to be given by name.
    """

    positional: int = 2
    keywords: tuple[str, ...] = ()

    def call(
        self, step: Step, batch: Any, batch_idx: int, dataloader_idx: int | None = None
    ) -> Any:
        """Call a step of this shape; the number of a data loader is given where there are several."""
        named = {"batch_idx": batch_idx, "dataloader_idx": dataloader_idx or 0}
        several = () if dataloader_idx is None else ("dataloader_idx",)
        given = {name: named[name] for name in dict.fromkeys((*self.keywords, *several))}
        return step(*(batch, batch_idx)[: self.positional], **given)


USUAL = Shape()
"""The shape that costs nothing: `step(batch, batch_idx)`."""


def step_of(module: Any, name: str) -> Step:
    """The step `name` of a module, to be called with a batch and its index.

    Raises:
        ConfigurationError: see `shape_of`.
    """
    shape, step = shape_of(module, name), getattr(module, name)
    return step if shape == USUAL else partial(shape.call, step)


def shape_of(module: Any, name: str) -> Shape:
    """Read off a step's signature how to call it; `USUAL` for what is no step.

    It may leave out `batch_idx`, take `dataloader_idx`, and have further parameters with defaults.

    Raises:
        ConfigurationError: it takes no batch, or has a parameter that nobody fills.
    """
    if name not in STEPS:
        return USUAL
    try:
        parameters = inspect.signature(getattr(module, name)).parameters
    except (TypeError, ValueError):
        return USUAL  # compiled code may have no signature to read
    plain = [
        p.name
        for p in parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    anything = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    where = f"{type(module).__name__}.{name}"
    if not plain and not anything:
        raise ConfigurationError(f"{where} takes no batch; define {name}(self, batch, batch_idx)")
    indexed = anything if len(plain) < 2 else _is_index(parameters[plain[1]])
    filled = plain[: 2 if indexed else 1]
    open_ = [p for p in parameters.values() if p.name not in filled]
    required = [
        p.name
        for p in open_
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    keywords = [n for n in ("batch_idx", "dataloader_idx") if n in required]
    others = [n for n in required if n not in keywords]
    if others:
        raise ConfigurationError(
            f"{where} has the parameter {', '.join(map(repr, others))}, which nobody fills; give it a default. A step "
            "takes batch, batch_idx and dataloader_idx"
        )
    return Shape(2 if indexed else 1, tuple(keywords))


def takes_dataloader_idx(module: Any, name: str) -> bool:
    """Whether a step can be told from which of several data loaders a batch comes."""
    try:
        parameters = inspect.signature(getattr(module, name)).parameters
    except (TypeError, ValueError):
        return True
    named = parameters.get("dataloader_idx")
    by_name = named is not None and named.kind is not named.POSITIONAL_ONLY
    return by_name or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _is_index(parameter: inspect.Parameter) -> bool:
    """Whether a step's second parameter is for the index: by its name, or because something has to be there."""
    if parameter.name in ("batch_idx", "dataloader_idx"):
        return parameter.name == "batch_idx"
    return parameter.default is parameter.empty
