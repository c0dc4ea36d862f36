"""Where a rank is: in which collective or method, since when, and through which collectives it has come.

A run that watches for hangs has an `Activity` in each process, and lays measured functions over the methods of its
collectives; one that does not has neither.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torchrelay.collectives.collectives import Collectives

Kind = Literal["collective", "method", "patient"]

COLLECTIVES = ("reduce", "all_gather", "broadcast", "gather_objects", "barrier", "all", "any")

PATIENT = frozenset({"prepare_data"})
"""Names of barriers at which ranks may wait as long as they like: one rank downloads while the others wait."""

HISTORY = 64
"""Collectives that are remembered, by which it is found where ranks parted."""


@dataclass(frozen=True, eq=False)
class Point:
    """A collective or a method that a rank is in.

    Args:
        kind: "collective"; "method", in which ranks may wait for each other as well; "patient", a collective in which
            they may wait for ever.
        title: what it is called.
        number: how many of its kind there have been in this process, this one included; methods are counted by title.
        since: when it was entered, on `time.monotonic()`'s clock.
    """

    kind: Kind
    title: str
    number: int
    since: float


class Activity:
    """What this process is in, and what it has been in.

    Attributes:
        entered: points that have been entered; ranks that do the same have the same.
        changed: when a point was last entered or left, on `time.monotonic()`'s clock.
        history: number and title of the latest collectives.
        broken: the first point that was left by an exception.
    """

    def __init__(self) -> None:
        self.entered = 0
        self.changed = time.monotonic()
        self.history: deque[tuple[int, str]] = deque(maxlen=HISTORY)
        self.broken: Point | None = None
        self._numbers: Counter[str] = Counter()
        self._inside: list[Point] = []

    @property
    def point(self) -> Point | None:
        """The innermost point; None between points."""
        inside = self._inside
        return inside[-1] if inside else None

    def cover(self, collectives: Collectives) -> dict[str, Callable[..., Any]]:
        """Functions, by name, that note where this process is and then do what the collectives do."""
        return {name: self._collective(name, getattr(collectives, name)) for name in COLLECTIVES}

    def method(self, title: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that notes that this process is in it."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._within("method", title, function, args, kwargs)

        return call

    def _collective(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            point = self.point
            if point is not None and point.kind != "method":
                return function(*args, **kwargs)  # one collective made of another
            kind: Kind = "collective"
            title = name
            if name == "barrier":
                label = str(args[0] if args else kwargs.get("name", ""))
                kind = "patient" if label in PATIENT else "collective"
                title = f"barrier {label!r}" if label else name
            return self._within(kind, title, function, args, kwargs)

        return call

    def _within(
        self, kind: Kind, title: str, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        point = self._enter(kind, title)
        try:
            return function(*args, **kwargs)
        except BaseException:
            self.broken = self.broken or point
            raise
        finally:
            self._inside.remove(point)
            self.changed = time.monotonic()

    def _enter(self, kind: Kind, title: str) -> Point:
        counted = title if kind == "method" else "collective"
        self._numbers[counted] += 1
        self.entered += 1
        now = time.monotonic()
        point = Point(kind, title, self._numbers[counted], now)
        if kind != "method":
            self.history.append((point.number, title))
        self._inside.append(point)
        self.changed = now
        return point
