"""Several loaders that are read as one, and their places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torchrelay.combined_loader import CombinedLoader


class Together:
    """Several loaders whose batches are trained on together.

    It has a place, `state_dict`, where each of the loaders has one and they are read side by side.

    Args:
        combined: the loaders.
        open_loader: makes a loader's iterator.
    """

    def __init__(
        self, combined: CombinedLoader, open_loader: Callable[[Any], Iterator[Any]]
    ) -> None:
        self.combined = combined
        self.flattened = combined.flattened
        self._open = open_loader
        self._reading: Any = None
        self._ended: list[int] = []

    @property
    def has_state(self) -> bool:
        """Whether it can say its place, and find it again."""
        side_by_side = self.combined.mode != "sequential"
        return side_by_side and all(map(has_state, self.flattened))

    def __len__(self) -> int:
        return len(self.combined)

    def __iter__(self) -> Iterator[Any]:
        ended, self._ended = self._ended, []
        reading = self._reading = self.combined.batches(self._open, ended)
        return reading

    def state_dict(self) -> dict[str, Any]:
        """The place of each loader, and which of them have ended in this epoch, in that order."""
        ended = [] if self._reading is None else list(self._reading.ended)
        return {"loaders": [each.state_dict() for each in self.flattened], "ended": ended}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from such a place when it is read next."""
        for loader, state in zip(self.flattened, state_dict["loaders"], strict=True):
            loader.load_state_dict(state)
        self._ended = list(state_dict["ended"])


def has_state(loader: Any) -> bool:
    """Whether a loader can say its place, and find it again."""
    if isinstance(loader, Together):
        return loader.has_state
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
