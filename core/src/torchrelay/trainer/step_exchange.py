"""The values of a step over ranks: one exchange for all metrics."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import torch

from torchrelay.collectives.collectives import Collectives
from torchrelay.trainer.accumulators import ACCUMULATORS, wide
from torchrelay.trainer.entries import Entry, as_tensor
from torchrelay.trainer.log_options import Key

_BLOCK = 16
"""Values travel in buffers whose length is a multiple of this, so that ranks with a few more or less still meet."""


class StepExchange:
    """Combines the newest values over ranks; each rank's own stay what they are.

    Args:
        collectives: what ranks exchange through.
    """

    def __init__(self, collectives: Callable[[], Collectives]) -> None:
        self._collectives = collectives
        self._combined: dict[Key, tuple[Any, float]] = {}

    def latest(self, key: Key, entry: Entry) -> Any:
        """The newest value: over ranks, if it was combined since it was logged."""
        of, combined = self._combined.get(key, (None, None))
        return combined if of is not None and of is entry.last else entry.last

    def combine(self, entries: Mapping[Key, Entry]) -> None:
        """Combine the newest values over those ranks that have them. Collective, if there are any."""
        if not entries or self._collectives().world_size == 1:
            return
        # Ranks may have met the metrics in another order.
        ordered = sorted(entries.items(), key=itemgetter(0))
        for (key, entry), values in zip(ordered, self._gather(ordered), strict=True):
            kind = ACCUMULATORS[entry.options.reduce]
            self._combined[key] = (entry.last, kind.over_ranks((value, 1) for value in values))

    def _gather(self, ordered: list[tuple[Key, Entry]]) -> list[list[float]]:
        """Each metric's values over ranks; a signature tells whether all have sent the same metrics."""
        collectives = self._collectives()
        signature = zlib.crc32(repr([key for key, _ in ordered]).encode())
        values = [as_tensor(entry.last).detach() for _, entry in ordered]
        device = next((v.device for v in values if not v.is_cpu), torch.device("cpu"))
        header = torch.tensor(float(signature), dtype=torch.float64)
        padding = [torch.zeros(())] * (-(len(values) + 1) % _BLOCK)
        sent = torch.stack([wide(value).to(device) for value in (header, *values, *padding)])
        rows: list[list[float]] = collectives.all_gather(sent).tolist()
        if len({row[0] for row in rows}) == 1:
            return [list(column) for column in zip(*rows, strict=True)][1 : len(values) + 1]
        ranks = collectives.gather_objects({key: float(entry.last) for key, entry in ordered})
        return [[rank[key] for rank in ranks if key in rank] for key, _ in ordered]
