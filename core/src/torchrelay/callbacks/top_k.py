"""TopK: which files of many are kept, by their scores or by their age."""

from __future__ import annotations

import math


class TopK:
    """The files that are kept, with their scores.

    Args:
        number: how many to keep; -1 for all, 0 for none.
        mode: "min" or "max": which scores are better.
        judged: whether scores decide; otherwise the newest are the best.

    Attributes:
        kept: score by file, the oldest first; NaN where scores do not decide.
    """

    def __init__(self, number: int, mode: str, judged: bool) -> None:
        self.number = number
        self.mode = mode
        self.judged = judged
        self.kept: dict[str, float] = {}

    def replaced_by(self, score: float | None) -> str | None:
        """The file that a new one takes the place of: "" for none, and None when the new one is not kept."""
        if self.number == 0:
            return None
        if self.number < 0 or len(self.kept) < self.number:
            return ""
        worst = self.worst
        if self.judged and (score is None or not self._better(score, self.kept[worst])):
            return None
        return worst

    def rank(self, score: float) -> float:
        """A score that can be compared: NaN is the worst there is."""
        return score if not math.isnan(score) else math.inf if self.mode == "min" else -math.inf

    def put(self, path: str, score: float | None, instead_of: str = "") -> None:
        """Keep a file, instead of another."""
        self.kept.pop(instead_of, None)
        self.kept[path] = math.nan if score is None else score

    @property
    def best(self) -> str:
        """The file with the best score, or the newest; "" if none is kept."""
        if not self.judged:
            return next(reversed(self.kept), "")
        pick = min if self.mode == "min" else max
        return pick(self.kept, key=lambda path: self.kept[path], default="")

    @property
    def worst(self) -> str:
        """The file with the worst score, or the oldest; "" if none is kept."""
        if not self.judged:
            return next(iter(self.kept), "")
        pick = max if self.mode == "min" else min
        return pick(self.kept, key=lambda path: self.kept[path], default="")

    def _better(self, score: float, than: float) -> bool:
        return score < than if self.mode == "min" else score > than
