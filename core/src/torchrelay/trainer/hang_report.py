"""What is said of a hang: where each rank is, which is not there, and everybody's stacks."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import FrameType
from typing import Any

from torchrelay.collectives import watching
from torchrelay.collectives.watching import Activity

MACHINERY = ("torch", "torchrelay")
"""Packages whose frames are not the user's."""

OWN_THREADS = "torchrelay-"
"""How the names of torchrelay's threads begin."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """What a rank says of itself.

    Args:
        rank: global rank.
        pid: its process.
        host: its machine.
        state: "running", "left" when it has finished the run, "failed" when it leaves it by an exception.
        kind: of the point that it is in; "" if it is in none.
        title: of that point.
        number: of that point.
        entered: points that it has come to.
        seconds: how long it has been in that point, or out of any.
        place: file, line and function of the user's that its main thread is in.
        history: number and title of its latest collectives.
        stacks: of all its threads, as text.
    """

    rank: int
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    state: str = "running"
    kind: str = ""
    title: str = ""
    number: int = 0
    entered: int = 0
    seconds: float = 0.0
    place: str = ""
    history: Sequence[Sequence[Any]] = ()
    stacks: str = ""

    @property
    def point(self) -> tuple[str, int]:
        """The point, as it is compared with other ranks'."""
        return self.title, self.number

    @property
    def where(self) -> str:
        """The point in words."""
        if self.state != "running":
            return {"left": "has finished", "failed": "has failed"}[self.state]
        if not self.title:
            return "in no collective, and in no method of the strategy"
        what = "call" if self.kind == "method" else "collective"
        return f"in {self.title} ({what} {self.number})"

    def note(self) -> dict[str, Any]:
        """As a note for the others."""
        return asdict(self)

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> Sighting:
        """From a note."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in note.items() if name in known})


def sight(rank: int, activity: Activity, state: str = "running", *, full: bool = False) -> Sighting:
    """Where this process is now.

    Args:
        rank: its global rank.
        activity: what it has noted.
        state: see `Sighting`.
        full: with stacks and history.
    """
    point, now = activity.point, time.monotonic()
    since = activity.changed if point is None else point.since
    more: dict[str, Any] = {}
    if full:
        more = {"place": place(), "history": list(activity.history), "stacks": stacks()}
    if point is not None:
        more |= {"kind": point.kind, "title": point.title, "number": point.number}
    return Sighting(rank=rank, state=state, entered=activity.entered, seconds=now - since, **more)


def stacks() -> str:
    """The stacks of Python's threads, the main thread's first; without torchrelay's own, which always wait."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(_frames().items(), key=lambda item: item[0] != main)
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{_stack(frame)}"
        for ident, frame in frames
        if not names.get(ident, "").startswith(OWN_THREADS)
    )


def _frames() -> dict[int, FrameType]:
    # Documented, whatever its name looks like.
    return sys._current_frames()  # noqa: SLF001


def _stack(frame: FrameType) -> str:
    lines = (each for each in traceback.extract_stack(frame) if each.filename != watching.__file__)
    return "".join(traceback.format_list(list(lines))).rstrip()


def place() -> str:
    """Where in the user's code the main thread is; "" if nowhere."""
    frame = _frames().get(threading.main_thread().ident or 0)
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    if frame is None:
        return ""
    code = frame.f_code
    return f"{code.co_filename}:{frame.f_lineno} in {code.co_name}"


def _is_users(frame: FrameType) -> bool:
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    library = sysconfig.get_path("stdlib")
    file = frame.f_code.co_filename
    ours = package in MACHINERY or package.startswith("torchrelay_") or file.startswith("<")
    return not ours and (not file.startswith(library) or "site-packages" in file)


@dataclass(frozen=True)
class Verdict:
    """Who is not there.

    Args:
        culprits: global ranks; empty if every rank is where it should be.
        text: what to say of the first of them, after "rank N".
    """

    culprits: tuple[int, ...]
    text: str


def judge(sightings: Sequence[Sighting], world_size: int, timeout: float) -> Verdict:
    """Find the ranks that are not where the others wait.

    Silent ranks come first, then those that have left. Else, where ranks are in collectives: those that are not in the
    one that most are in (or, of two equal parts, that has been waited in longest). Where they are in methods alone:
    those that have come to fewer points than the farthest.

    Args:
        sightings: of the ranks that answered.
        world_size: number of ranks.
        timeout: how long was waited, in seconds.
    """
    answered = {each.rank: each for each in sightings}
    silent = tuple(rank for rank in range(world_size) if rank not in answered)
    there = _reference(sightings)
    waiting = _in_words(each.rank for each in there)
    what = f"{waiting} waited {there[0].seconds:.0f} s {there[0].where}" if there else ""
    if there and there[0].kind == "collective" and there[0].place:
        what += f", at {there[0].place}"
    if silent:
        text = "does not answer: its process has ended or is stopped, or native code keeps Python from running"
        return Verdict(silent, f"{text}; {what}" if what else text)
    absent = tuple(rank for rank in sorted(answered) if answered[rank] not in there)
    gone = tuple(rank for rank in absent if answered[rank].state != "running")
    if not absent:
        text = f"waited {timeout:.0f} s {there[0].where}, and so did every other rank: see to the network between them"
        return Verdict((), text)
    first = answered[(gone or absent)[0]]
    text = f"is not there: it is {first.where}" if first.state == "running" else first.where
    if first.place and first.state == "running":
        text += f", at {first.place}"
    return Verdict(gone or absent, f"{text}, while {what}{_parting(sightings)}")


def _reference(sightings: Sequence[Sighting]) -> list[Sighting]:
    """The ranks that are where all should be."""
    running = [each for each in sightings if each.state == "running"]
    collective = [each for each in running if each.kind == "collective"]
    if collective:
        groups: dict[tuple[str, int], list[Sighting]] = {}
        for each in collective:
            groups.setdefault(each.point, []).append(each)
        return max(groups.values(), key=lambda group: (len(group), group[0].seconds))
    inside = [each for each in running if each.kind == "method"]
    if not inside:
        return []
    farthest = max(inside, key=lambda each: (each.entered, each.seconds))
    return [each for each in inside if each.point == farthest.point]


def _parting(sightings: Sequence[Sighting]) -> str:
    """The first collective in which ranks did different things; "" if none is known."""
    each_did: dict[int, dict[str, list[int]]] = {}
    for sighting in sightings:
        for number, title in sighting.history:
            each_did.setdefault(number, {}).setdefault(title, []).append(sighting.rank)
    for number in sorted(each_did):
        if len(each_did[number]) > 1:
            parts = (f"{title} on {_in_words(ranks)}" for title, ranks in each_did[number].items())
            return f"; collective {number} was not the same on all: {', '.join(parts)}"
    return ""


def render(sightings: Sequence[Sighting], verdict: Verdict, world_size: int, timeout: float) -> str:
    """Everything that is known of the hang, for people to read; equal stacks once."""
    known = {each.rank: each for each in sightings}
    lines = [f"torchrelay: ranks have waited for one another for {timeout:g} s (hang_timeout)", ""]
    for rank in range(world_size):
        each = known.get(rank)
        mark = "*" if rank in verdict.culprits else " "
        if each is None:
            lines.append(f"{mark} rank {rank}: does not answer")
            continue
        at = f", at {each.place}" if each.place else ""
        lines.append(
            f"{mark} rank {rank} (process {each.pid} on {each.host}): {each.where} for {each.seconds:.1f} s{at}"
        )
    groups: dict[str, list[int]] = {}
    for each in sightings:
        if each.stacks:
            groups.setdefault(each.stacks, []).append(each.rank)
    for text, ranks in groups.items():
        lines += ["", f"--- stacks of {_in_words(ranks)} ---", text]
    return "\n".join([*lines, "", headline(verdict)])


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    return f"{_in_words(verdict.culprits) if verdict.culprits else 'each rank'} {verdict.text}"


def _in_words(ranks: Iterable[int]) -> str:
    listed = sorted(ranks)
    text = ", ".join(map(str, listed[:8])) + (f" and {len(listed) - 8} more" if listed[8:] else "")
    return f"rank{'s' if len(listed) > 1 else ''} {text}"
