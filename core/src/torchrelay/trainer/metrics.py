"""What `self.log` records, cheaply, and what becomes of it at the end of a step and of an epoch.

Recording never waits for a device. An epoch's values are combined as they come, and over ranks, where `sync_dist`
asks for it, when the epoch ends; a step's are when loggers are about to receive them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from torchrelay.collectives.collectives import Collectives
from torchrelay.errors import ConfigurationError
from torchrelay.trainer.batch_size import batch_size_of
from torchrelay.trainer.entries import (
    Entry,
    MetricObject,
    Number,
    Share,
    as_tensor,
    detached,
    is_metric_object,
    placed,
)
from torchrelay.trainer.log_options import Asked, Key, Options, Place, refuse_change, resolve
from torchrelay.trainer.owners import attribute_of, object_at
from torchrelay.trainer.step_exchange import StepExchange


class Metrics:
    """The metrics of one stage.

    Args:
        stage: "train", "validate", "test" or "predict"; decides the defaults of `on_step` and `on_epoch`.
        collectives: what combines over ranks; not used before a run is set up.
        owner: the module whose attributes metric objects are, so that a rank which had no batch finds them too.
    """

    def __init__(
        self, stage: str, collectives: Callable[[], Collectives], owner: nn.Module | None = None
    ) -> None:
        self.training = stage == "train"
        self._collectives = collectives
        self._owner = owner
        self._place = Place(False, None)
        self._entries: dict[str, Entry] = {}
        self._places: dict[Place, dict[str, Entry]] = {self._place: self._entries}
        self._batch: Any = None
        self._size = 1
        self._closed: dict[Key, tuple[Options, torch.Tensor]] = {}
        self._over_ranks = StepExchange(collectives)

    # --- where the loop is ------------------------------------------------------------------------------

    @property
    def in_step(self) -> bool:
        """Whether a batch is at work; what is logged then and what is logged otherwise are kept apart."""
        return self._place.in_step

    @in_step.setter
    def in_step(self, value: bool) -> None:
        if value is not self._place.in_step:
            self._move(Place(value, self._place.dataloader_idx))

    @property
    def dataloader_idx(self) -> int | None:
        """Which data loader the batch is of; None where there is but one."""
        return self._place.dataloader_idx

    @dataloader_idx.setter
    def dataloader_idx(self, value: int | None) -> None:
        self._move(Place(self._place.in_step, value))

    @property
    def batch(self) -> Any:
        """The batch at work, whose size is looked for when a mean first needs it."""
        return self._batch

    @batch.setter
    def batch(self, batch: Any) -> None:
        self._batch = batch
        self._size = 0

    def begin(self, batch: Any) -> None:
        """Go on to a batch."""
        self._batch, self._size = batch, 0
        if not self._place.in_step:
            self._move(Place(True, self._place.dataloader_idx))

    def _move(self, place: Place) -> None:
        self._place = place
        self._entries = self._places.setdefault(place, {})
        self._size = 0

    def _measure(self) -> int:
        self._size = batch_size_of(self._batch) if self._place.in_step else 1
        return self._size

    # --- recording --------------------------------------------------------------------------------------

    def log(self, name: str, value: Any, batch_size: int | None = None, **options: Any) -> None:
        """Record a value; the options are those of `LightningModule.log`."""
        self.record(name, value, Asked(**options), batch_size)

    def record(
        self, name: str, value: Any, asked: tuple[Any, ...], batch_size: int | None = None
    ) -> None:
        """Record a value.

        Args:
            name: of the metric.
            value: a number, a tensor of one element, or an object that collects by itself.
            asked: the fields of `Asked`, in their order.
            batch_size: weight in a mean; found from the batch when None.
        """
        entry = self._entries.get(name)
        if entry is None or asked != entry.asked:
            entry = self._open(name, value, Asked(*asked), batch_size)
        weight: float = 1
        if entry.weighted:
            weight = (self._size or self._measure()) if batch_size is None else batch_size
        entry.update(value, weight)

    def _open(self, name: str, value: Any, asked: Asked, batch_size: Any) -> Entry:
        """The entry of a metric's first call.

        Raises:
            ConfigurationError: it cannot be kept as asked for, or was logged with other arguments before.
        """
        known = self._entries.get(name)
        if known is not None and known.asked is not None:
            raise refuse_change(name, known.asked, asked)
        options = resolve(name, asked, self._place, training=self.training)
        self._check_unique(options)
        if batch_size is not None and not (
            isinstance(batch_size, (int, float)) and batch_size >= 0
        ):
            raise ConfigurationError(
                f"log({name!r}, batch_size={batch_size!r}): the weight in a mean is a number, and not negative"
            )
        if known is not None and known.is_kept_as(options):
            known.asked = asked
            return known
        entry = self._entries[name] = self._make(options, asked, value)
        return entry

    def _make(self, options: Options, asked: Asked, value: Any) -> Entry:
        if is_metric_object(value):
            if isinstance(value, Mapping) or hasattr(value, "items"):
                raise ConfigurationError(
                    f"log({options.name!r}, {type(value).__name__}(...)) is a collection; give it to log_dict"
                )
            if asked.rank_zero_only:
                raise ConfigurationError(
                    f"log({options.name!r}, {type(value).__name__}(...), rank_zero_only=True): all ranks must take "
                    "part in compute(); leave rank_zero_only out, or log what the object computed"
                )
            attribute = options.attribute or attribute_of(self._owner, value)
            return MetricObject(options._replace(attribute=attribute), asked, value)
        if asked.rank_zero_only and self._collectives().rank != 0:
            # It is still checked, as on rank 0, but nothing of it is kept.
            return Number(options._replace(on_step=False, on_epoch=False), asked)
        return Number(options, asked, keep_last=not self._place.in_step)

    def _check_unique(self, options: Options) -> None:
        """Refuse a name without a number that a metric of another data loader has."""
        loader, name = self._place.dataloader_idx, options.name
        if loader is None or options.suffix:
            return
        for place, entries in self._places.items():
            other = entries.get(name) if place.dataloader_idx not in (None, loader) else None
            if other is not None and not other.options.suffix:
                raise ConfigurationError(
                    f"log({name!r}, add_dataloader_idx=False): data loaders {place.dataloader_idx} and {loader} would "
                    "share the name; put something of the data loader into it, or leave add_dataloader_idx out"
                )

    # --- the end of an epoch ----------------------------------------------------------------------------

    def close_epoch(self, *, reset: bool = True) -> None:
        """Combine the epoch's values, over ranks where asked for, and begin anew. Collective.

        A rank that had no batch, or did not log a metric, takes part all the same and learns of it.

        Args:
            reset: reset the objects that were logged; if False, the next call does, and until then a hook may
                still read them.
        """
        shared: dict[Key, Share] = {}
        for key, entry in self._every():
            due, entry.pending = entry.pending and entry.options.on_epoch, False
            if not due:
                continue
            if entry.shared:
                shared[key] = entry.share()
            else:
                self._closed[key] = (entry.options, entry.close(()))
        for key, shares in self._union(shared).items():
            entry = self._known(key, shares)
            self._closed[key] = (entry.options, entry.close(shares))
        if reset:
            for _, entry in self._every():
                entry.forget()

    def _every(self) -> Iterator[tuple[Key, Entry]]:
        """All metrics; those that were logged outside of batches come last, and so prevail under equal names."""
        for place in sorted(self._places, key=lambda place: not place.in_step):
            for name, entry in self._places[place].items():
                yield Key(place, name), entry

    def _union(self, shared: dict[Key, Share]) -> dict[Key, list[Share]]:
        """The shares of all ranks, in the same order everywhere; one exchange for all metrics."""
        collectives = self._collectives()
        ranks = [shared] if collectives.world_size == 1 else collectives.gather_objects(shared)
        union: dict[Key, list[Share]] = {}
        for theirs in ranks:
            for key, share in theirs.items():
                union.setdefault(key, []).append(share)
        for key, shares in union.items():
            if shares[0].is_object and not shares[0].options.attribute and len(shares) < len(ranks):
                raise ConfigurationError(
                    f"log({key.name!r}, an object): only {len(shares)} of {len(ranks)} ranks have logged it in this "
                    "epoch, and the others cannot find it to take part in compute(); make it an attribute of the "
                    "module, or name the one it is in with metric_attribute"
                )
        return union

    def _known(self, key: Key, shares: list[Share]) -> Entry:
        """This rank's entry of a metric, made now if only others have logged it."""
        entries = self._places.setdefault(key.place, {})
        entry, options = entries.get(key.name), shares[0].options
        if entry is None:
            if shares[0].is_object:
                target = object_at(self._owner, options.name, options.attribute or "")
                entry = MetricObject(options, None, target)
            else:
                entry = Number(options)
            entries[key.name] = entry
        return entry

    # --- in a checkpoint --------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What is known on this rank, as tensors and plain data.

        An object's own state is left out; one that is no attribute of the module is left out altogether.
        """
        entries = [
            {**_named(key, entry.options), **entry.state_dict()}
            for key, entry in self._every()
            if isinstance(entry, Number) or entry.options.attribute
        ]
        closed = [
            {**_named(key, options), "value": detached(value)}
            for key, (options, value) in self._closed.items()
        ]
        return {"entries": entries, "closed": closed}

    def load_state_dict(self, state_dict: Mapping[str, Any], device: torch.device) -> None:
        """Go on from what was known, with tensors on a device."""
        for state in state_dict["entries"]:
            key, options = _key_of(state)
            entry: Entry = Number(options, keep_last=not key.place.in_step)
            if "used" in state:
                target = object_at(self._owner, options.name, options.attribute or "")
                entry = MetricObject(options, None, target)
            entry.load_state_dict(state, device)
            self._places.setdefault(key.place, {})[key.name] = entry
        for state in state_dict["closed"]:
            key, options = _key_of(state)
            self._closed[key] = (options, placed(state["value"], device))

    # --- what became of it ------------------------------------------------------------------------------

    def step_values(self, *, for_logger: bool = False, reduce: bool = False) -> dict[str, Any]:
        """The latest values of the metrics that are kept by step, of the present data loader.

        Args:
            for_logger: leave out those logged with `logger=False`.
            reduce: combine those with `sync_dist` over ranks first. Collective, if there are any.
        """
        entries = {
            key: entry
            for key, entry in self._every()
            if entry.options.on_step
            and entry.last is not None
            and key.place.dataloader_idx == self._place.dataloader_idx
        }
        if reduce:
            self._over_ranks.combine({key: e for key, e in entries.items() if e.options.sync_dist})
        return {
            entry.options.step_name: self._over_ranks.latest(key, entry)
            for key, entry in entries.items()
            if entry.options.logger or not for_logger
        }

    def epoch_values(self, *, for_logger: bool = False) -> dict[str, torch.Tensor]:
        """The combined values of the latest epoch that logged them."""
        return {
            options.epoch_name: value
            for options, value in self._closed.values()
            if options.logger or not for_logger
        }

    def results(self, loaders: int) -> list[dict[str, float]]:
        """The epoch's values by data loader, with those that belong to none in each; without `logger=False`.

        Args:
            loaders: how many there are.
        """
        return [
            {
                options.epoch_name: float(value)
                for key, (options, value) in self._closed.items()
                if options.logger and key.place.dataloader_idx in (None, number)
            }
            for number in range(loaders)
        ]

    def values(self) -> dict[str, torch.Tensor]:
        """Everything a callback may watch: latest steps in training, latest epochs, the newer under the plain name."""
        found: dict[str, Any] = {}
        newer: dict[str, Any] = {}
        for key, entry in self._every():
            if entry.last is None or not (self.training or not key.place.in_step):
                continue
            value = self._over_ranks.latest(key, entry)
            (newer if entry.pending else found)[entry.options.plain_name] = value
            if entry.options.on_step:
                found[entry.options.step_name] = value
        for options, value in self._closed.values():
            found[options.plain_name] = found[options.epoch_name] = value
        return {name: as_tensor(value) for name, value in {**found, **newer}.items()}

    def progress_bar_values(self) -> dict[str, Any]:
        """What was logged with `prog_bar=True`: the latest steps and the latest epochs."""
        found = {
            entry.options.step_name: self._over_ranks.latest(key, entry)
            for key, entry in self._every()
            if entry.options.prog_bar and entry.options.on_step and entry.last is not None
        }
        for options, value in self._closed.values():
            if options.prog_bar:
                found[options.epoch_name] = value
        return found


def _named(key: Key, options: Options) -> dict[str, Any]:
    place = key.place
    return {"in_step": place.in_step, "loader": place.dataloader_idx, "options": [*options]}


def _key_of(state: Mapping[str, Any]) -> tuple[Key, Options]:
    options = Options(*state["options"])
    return Key(Place(state["in_step"], state["loader"]), options.name), options
