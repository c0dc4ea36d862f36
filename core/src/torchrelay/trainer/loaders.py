"""The data of a run: whose it is, and each rank's part of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from torchrelay.combined_loader import CombinedLoader, is_loader
from torchrelay.errors import ConfigurationError
from torchrelay.plugin.specs import Capability
from torchrelay.seed import seed_workers_of
from torchrelay.trainer.batch_indices import recorded
from torchrelay.trainer.data import Portion, length
from torchrelay.trainer.epoch_rng import generators_of
from torchrelay.trainer.sharding import can_be_shared, in_order, shard
from torchrelay.trainer.stages import STAGES
from torchrelay.trainer.together import Together
from torchrelay.trainer.workers import opened
from torchrelay.tree import flatten

if TYPE_CHECKING:
    from torchrelay.trainer.session import Job, Session


def no_data(job: Job, data: str) -> ConfigurationError:
    """The error for a stage that has nothing to read."""
    return ConfigurationError(
        f"{job.stage} has no data: pass a data loader, or define {STAGES[data].loader_method}() in "
        f"{type(job.data_owner).__name__}"
    )


class Loaders:
    """The user's loaders, asked for once, and what this rank reads of them.

    Args:
        session: the run.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._given: dict[str, Any] = {}
        self._portions: dict[str, list[Portion]] = {}

    # --- this rank's part -------------------------------------------------------------------------------

    def opened(self, stage: str) -> list[Portion]:
        """What is read in a stage, a portion a loader; none before it is opened."""
        return self._portions.get(stage, [])

    def generators(self) -> list[torch.Generator]:
        """The generators that the data of fit has of its own, each once."""
        portions = [portion for stage in ("train", "validate") for portion in self.opened(stage)]
        found = [each for portion in portions for each in generators_of(portion.source)]
        return list({id(each): each for each in found}.values())

    def training(self) -> Portion:
        """What is trained on; several loaders make one portion.

        Raises:
            ConfigurationError: there is no data, or less than there are ranks.
        """
        if "train" not in self._portions:
            loader = self._required("train")
            if holds_loaders(loader):
                combined = as_combined(loader, "max_size_cycle")
                loader = Together(combined.map(lambda each: self._share(each, "train")), opened)
            else:
                loader = self._share(loader, "train")
            self._portions["train"] = [self._portion(loader, "train")]
        return self._portions["train"][0]

    def evaluation(self, stage: str) -> list[Portion]:
        """What is evaluated, a portion a loader; the loaders of a collection are read one after the other.

        Raises:
            ConfigurationError: there is no data.
        """
        if stage not in self._portions:
            loader = self._required(stage)
            if holds_loaders(loader):
                portions = self._collection(as_combined(loader, "sequential"), stage)
            else:
                portions = [self._one(loader, stage)]
            self._portions[stage] = portions
        return self._portions[stage]

    def _collection(self, combined: CombinedLoader, stage: str) -> list[Portion]:
        if combined.mode == "sequential":
            return [self._one(each, stage) for each in combined.flattened]
        shared = combined.map(lambda each: self._share(each, stage))
        return [self._portion(Together(shared, opened), stage)]

    def _one(self, loader: Any, stage: str) -> Portion:
        if stage != "predict":
            return self._portion(self._share(loader, stage), stage)
        shared, indices = recorded(self._share(loader, stage))
        portion = self._portion(shared, stage)
        portion.indices = indices
        portion.total = length(loader) if shared is not loader and self._is_shared(loader) else None
        return portion

    def reload(self, stage: str) -> None:
        """Ask the module or data module for its loaders anew; those that were passed stay."""
        if stage not in self._session.job.loaders:
            self._given.pop(stage, None)
            self._portions.pop(stage, None)

    def expected_training_batches(self) -> int | float:
        """Batches of an epoch on this rank; infinite when that is not known."""
        number = self.training().number
        return math.inf if number is None else number

    # --- from the user's to this rank's -----------------------------------------------------------------

    def has(self, stage: str) -> bool:
        """Whether there is data for a stage."""
        loader = self._user(stage)
        return loader is not None and not (isinstance(loader, (list, tuple)) and not loader)

    def _user(self, stage: str) -> Any:
        """The user's data: passed, or of the data module or module; None if there is none."""
        if stage not in self._given:
            job = self._session.job
            loader = job.loaders.get(stage)
            if loader is None and job.has_data(stage):
                loader = getattr(job.data_owner, STAGES[stage].loader_method)()
            self._given[stage] = loader
        return self._given[stage]

    def _required(self, stage: str) -> Any:
        loader = self._user(stage)
        if loader is None:
            raise no_data(self._session.job, stage)
        return loader

    def _is_shared(self, loader: Any) -> bool:
        options, strategy = self._session.options, self._session.strategy
        wanted = options.use_distributed_sampler and strategy.sampler_arguments is not None
        return wanted and can_be_shared(loader)

    def _share(self, loader: Any, stage: str) -> Any:
        session, training = self._session, stage == "train"
        options, strategy = session.options, session.strategy
        if options.overfit_batches and stage in ("train", "validate"):
            loader = in_order(loader)
        if self._is_shared(loader):
            uneven = session.trainer.allows_uneven_evaluation
            loader = shard(
                loader,
                strategy.sampler_arguments or {},
                training=training,
                pad=training or not uneven,
                seed=session.trainer.data_seed,
                whole_batches=stage == "predict",
            )
        if length(loader) is None:
            strategy.require(Capability.ITERABLE_DATASETS, f"the data of {stage}")
        seed_workers_of(loader, strategy.global_rank)
        return loader

    def _portion(self, loader: Iterable[Any], stage: str) -> Portion:
        session = self._session
        return Portion(
            loader,
            session.options.limit(stage),
            STAGES[stage].limit,
            lambda limited: session.strategy.process_dataloader(limited, stage),
        )


def holds_loaders(value: Any) -> bool:
    """Whether something is a collection of loaders; a list of batches is one loader."""
    if isinstance(value, (CombinedLoader, Mapping)):
        return True
    if not isinstance(value, (list, tuple)):
        return False
    return any(isinstance(leaf, DataLoader) or _is_a_loader(leaf) for leaf in flatten(value)[0])


def _is_a_loader(leaf: Any) -> bool:
    return is_loader(leaf) and not hasattr(leaf, "__array__")


def as_combined(value: Any, mode: Any) -> CombinedLoader:
    """A collection of loaders as one, in the user's way or in another."""
    return value if isinstance(value, CombinedLoader) else CombinedLoader(value, mode)
