"""The random states that a resumed epoch begins from and goes on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from torchrelay.checkpoint import rng


class EpochRNG:
    """The random state at the beginning of an epoch, which decides the order of its data.

    Args:
        generators: the generators that the data has of its own, beside those of the process.

    Attributes:
        at_start: the state at the beginning of the epoch under way; None before the first.
    """

    def __init__(self, generators: Callable[[], list[torch.Generator]]) -> None:
        self._generators = generators
        self.at_start: dict[str, Any] | None = None
        self._resume_from: Mapping[str, Any] | None = None
        self._then: Mapping[str, Any] | None = None

    def capture(self) -> dict[str, Any]:
        """The random states now."""
        own = [generator.get_state() for generator in self._generators()]
        return {**rng.capture(), "loaders": own} if own else rng.capture()

    def resume(self, at_start: Mapping[str, Any] | None, then: Mapping[str, Any]) -> None:
        """Let the next epoch go on with one state; inside of an epoch, after it has begun from another."""
        self._resume_from, self._then = at_start, then

    def enter(self) -> None:
        """Take up the state at which a checkpoint between two epochs was made, if a run goes on from one."""
        if self._resume_from is None:
            self.continue_from_checkpoint()

    def begin(self) -> None:
        """Note the state at an epoch's beginning; in a resumed epoch, return to it."""
        if self._resume_from is not None:
            self._restore(self._resume_from)
            self._resume_from = None
        self.at_start = self.capture()

    def continue_from_checkpoint(self) -> None:
        """After the data of a resumed epoch is under way, go on with the state of the checkpoint."""
        if self._then is not None:
            self._restore(self._then)
            self._then = None

    def _restore(self, state: Mapping[str, Any]) -> None:
        rng.restore(state)
        own, states = self._generators(), state.get("loaders", ())
        if len(own) == len(states):
            for generator, each in zip(own, states, strict=True):
                generator.set_state(each)


def generators_of(loader: Any) -> Iterator[torch.Generator]:
    """The generators of a loader and its samplers, or of the loaders that it combines; some more than once."""
    generator = getattr(loader, "generator", None)
    if isinstance(generator, torch.Generator):
        yield generator
    inner = [getattr(loader, name, None) for name in ("sampler", "batch_sampler", "source")]
    for each in (*getattr(loader, "flattened", ()), *inner):
        if each is not None:
            yield from generators_of(each)
