"""NoticeBoard: what ranks let each other know while a collective does not return."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

# torch re-exports these without saying so to type checkers.
from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

from torchrelay.environments.environment import ClusterEnvironment

PATIENCE = 10.0
"""Seconds in which the store must answer."""

Note = dict[str, Any]

# Boards that each rank has had at each address, since when: a later run never reads what an earlier one left. Several
# ranks may be threads of this process.
_boards: Counter[tuple[str, int, int, int]] = Counter()


class BoardError(Exception):
    """The store does not answer: its host is gone, stopped, or cannot be reached."""


class NoticeBoard:
    """Notes of the ranks, in the store at the environment's main address, over a connection of its own.

    A collective that hangs may hold the connection of the process group. Where nobody hosts a store, as under a backend
    without torch.distributed, rank 0 does. All ranks make equally many.

    Args:
        environment: where the store is, and who this is.

    Raises:
        BoardError: here and below.
    """

    def __init__(self, environment: ClusterEnvironment) -> None:
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # A thread of its own: torch waits for ever for a host that is stopped.
        threading.Thread(target=self._serve, name="torchrelay-board", daemon=True).start()
        self._store: Any = self._ask(lambda: _connect(environment))

    def post(self, name: str, note: Note) -> None:
        """Leave a note, in the place of an earlier one of that name."""
        self._ask(lambda: self._store.set(name, json.dumps(note)))

    def read(self, name: str) -> Note | None:
        """The note of that name; None if there is none."""
        text = self._ask(lambda: self._store.get(name) if self._store.check([name]) else None)
        note: Note | None = None if text is None else json.loads(text)
        return note

    def claim(self, name: str, note: Note) -> Note:
        """Leave a note unless there is one; the note that is there now."""
        there: Note = json.loads(
            self._ask(lambda: self._store.compare_set(name, "", json.dumps(note)))
        )
        return there

    def close(self) -> None:
        """Let go of the connection."""
        self._calls.put(None)

    def _ask(self, call: Callable[[], Any]) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._calls.put((call, answer))
        try:
            value, error = answer.get(timeout=PATIENCE)
        except queue.Empty:
            raise BoardError(f"the run's store has not answered for {PATIENCE:.0f} s") from None
        if error is not None:
            raise BoardError(str(error)) from error
        return value

    def _serve(self) -> None:
        while (asked := self._calls.get()) is not None:
            call, answer = asked
            try:
                answer.put((call(), None))
            except DistError as error:
                answer.put((None, error))
            # What is not let go of here keeps the store alive while the next call is awaited.
            del asked, call, answer
        self._store = None


def _connect(environment: ClusterEnvironment) -> PrefixStore:
    address, port = environment.main_address, environment.main_port
    restarts, rank = environment.restart_count, environment.global_rank
    _boards[address, port, restarts, rank] += 1
    store = TCPStore(
        address,
        port,
        is_master=not environment.store_is_hosted and rank == 0,
        # A process group's store that comes later, or was there before, shares the port with this one.
        multi_tenant=True,
        wait_for_workers=False,
        timeout=timedelta(seconds=PATIENCE),
    )
    number = _boards[address, port, restarts, rank]
    return PrefixStore(f"torchrelay-watch/{restarts}/{number}", store)
