from __future__ import annotations

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from torchrelay.errors import ConfigurationError
from torchrelay.trainer.data import Portion
from torchrelay.trainer.sharding import can_be_shared, shard


class Stream:
    """Batches without a length, which count how many were drawn."""

    def __init__(self, number):
        self.number, self.drawn = number, 0

    def __iter__(self):
        for i in range(self.number):
            self.drawn += 1
            yield i


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, 10), (3, 3), (0, 0), (99, 10), (1, 1), (1.0, 10), (0.35, 3), (0.0, 0), (0.99, 9)],
)
def test_so_many_batches_of_a_loader_with_a_length(limit, expected):
    portion = Portion(list(range(10)), limit, "limit_train_batches")
    assert portion.number == expected
    batches = list(portion.batches())
    assert [batch for batch, _ in batches] == list(range(expected))
    assert [last for _, last in batches] == [i == expected - 1 for i in range(expected)]


@pytest.mark.parametrize(("limit", "expected"), [(None, 4), (3, 3), (0, 0), (9, 4), (1.0, 4)])
def test_so_many_batches_of_a_loader_without_a_length(limit, expected):
    portion = Portion(Stream(4), limit, "limit_train_batches")
    assert portion.number is None
    batches = list(portion.batches())
    assert [batch for batch, _ in batches] == list(range(expected))
    assert [last for _, last in batches] == [i == expected - 1 for i in range(expected)]


def test_a_fraction_needs_a_length_and_at_least_one_batch():
    with pytest.raises(
        ConfigurationError,
        match=r"limit_val_batches=0.5 asks for a fraction of .* no length; give a",
    ):
        Portion(Stream(4), 0.5, "limit_val_batches")
    with pytest.raises(
        ConfigurationError,
        match=r"limit_val_batches=0.1 of 5 batches is less than one; give a larger",
    ):
        Portion([0] * 5, 0.1, "limit_val_batches")


@pytest.mark.parametrize("loader", [list(range(5)), Stream(5)], ids=["length", "no-length"])
def test_what_is_skipped_is_drawn_before_the_rest(loader):
    seen = []
    portion = Portion(loader, 4, "limit_train_batches")
    batches = portion.batches(skip=2, after_skip=lambda: seen.append("skipped"))
    assert seen == ["skipped"]  # at once: what follows may be validated before the next is drawn
    assert list(batches) == [(2, False), (3, True)]
    assert list(portion.batches(skip=4, after_skip=lambda: seen.append("all"))) == []
    assert seen == ["skipped", "all"]


def test_nothing_is_read_ahead_of_the_skipped_or_beyond_the_limit():
    class Sized(Stream):
        def __len__(self):
            return self.number

    loader = Sized(9)
    batches = Portion(loader, 5, "limit_train_batches").batches(skip=2)
    assert next(batches) == (2, False)
    assert loader.drawn == 3
    assert len(list(batches)) == 2
    assert loader.drawn == 5


def drawn(loader, world_size=3, epoch=None, training=True, pad=True, seed=0):
    """What each rank reads, as lists of the samples of each batch."""
    ranks = []
    for rank in range(world_size):
        arguments = {"num_replicas": world_size, "rank": rank}
        shared = shard(loader, arguments, training=training, pad=pad, seed=seed)
        portion = Portion(shared, None, "limit_train_batches")
        portion.set_epoch(epoch or 0)
        batches = [batch.tolist() for batch, _ in portion.batches()]
        assert len(shared) == len(batches)
        ranks.append(batches)
    return ranks


def flat(ranks):
    return sorted(sample for rank in ranks for batch in rank for sample in batch)


LOADERS = {
    "in-order": lambda: DataLoader(range(10), batch_size=2),
    "shuffled": lambda: DataLoader(range(10), batch_size=2, shuffle=True),
    "replaced": lambda: DataLoader(
        range(10), batch_size=2, sampler=RandomSampler(range(10), replacement=True, num_samples=10)
    ),
    "weighted": lambda: DataLoader(
        range(10), batch_size=2, sampler=WeightedRandomSampler([1.0] * 10, 10)
    ),
    "own-sampler": lambda: DataLoader(range(10), batch_size=2, sampler=list(range(10))),
    "one-by-one": lambda: DataLoader(torch.arange(10), batch_size=None),
    "subclass": lambda: type("Own", (DataLoader,), {})(range(10), batch_size=2),
}
COMPLETE = ["in-order", "shuffled", "own-sampler", "subclass"]


@pytest.mark.parametrize("kind", LOADERS)
def test_ranks_share_the_data_and_keep_step(kind):
    loader = LOADERS[kind]()
    if kind == "one-by-one":
        shared = [
            shard(loader, {"num_replicas": 3, "rank": r}, training=True, pad=True, seed=0)
            for r in range(3)
        ]
        assert [len(list(one)) for one in shared] == [4, 4, 4]
        return
    ranks = drawn(loader)
    assert [len(batches) for batches in ranks] == [2, 2, 2]
    assert len(flat(ranks)) == 12
    if kind in COMPLETE:
        assert set(flat(ranks)) == set(range(10))


@pytest.mark.parametrize("kind", COMPLETE)
def test_nothing_is_evaluated_twice(kind):
    assert flat(drawn(LOADERS[kind](), training=False, pad=False)) == list(range(10))


@pytest.mark.parametrize("kind", ["shuffled", "replaced", "weighted"])
def test_each_epoch_and_each_seed_has_its_order_alike_on_all_ranks(kind):
    loader = LOADERS[kind]()
    state = torch.get_rng_state()
    first = drawn(loader, epoch=0)
    torch.manual_seed(99)  # ranks need not have the same random state
    assert drawn(loader, epoch=0) == first
    assert drawn(loader, epoch=1) != first
    assert drawn(loader, epoch=0, seed=5) != first
    torch.set_rng_state(state)


def test_sharing_leaves_the_random_state_alone():
    loader = DataLoader(range(10), sampler=WeightedRandomSampler([1.0] * 10, 10))
    before = torch.get_rng_state()
    list(shard(loader, {"num_replicas": 2, "rank": 0}, training=True, pad=True, seed=0).sampler)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_samplers_batches_stay_whole():
    class Pairs:
        def __iter__(self):
            return iter([[0, 9], [1, 8], [2, 7], [3, 6], [4, 5]])

        def __len__(self):
            return 5

    ranks = drawn(DataLoader(range(10), batch_sampler=Pairs()), world_size=2)
    assert ranks == [[[0, 9], [2, 7], [4, 5]], [[1, 8], [3, 6], [0, 9]]]


def test_drop_last_and_the_users_loader_are_kept():
    loader = DataLoader(
        range(10), batch_size=2, drop_last=True, num_workers=0, collate_fn=torch.tensor
    )
    assert [len(batches) for batches in drawn(loader, world_size=4)] == [1, 1, 1, 1]
    assert len(loader) == 5
    assert isinstance(loader.sampler, SequentialSampler)
    assert type(loader.batch_sampler) is BatchSampler


def test_what_is_left_as_it_is():
    class Numbers(IterableDataset):
        def __iter__(self):
            return iter(range(4))

    own = DataLoader(range(4), sampler=DistributedSampler(range(4), num_replicas=2, rank=0))
    for loader in (own, DataLoader(Numbers()), [1, 2, 3]):
        assert not can_be_shared(loader)
    assert can_be_shared(DataLoader(range(4)))


def test_more_ranks_than_samples():
    with pytest.raises(ConfigurationError, match=r"2 samples for 5 processes.*take devices=2"):
        drawn(DataLoader(range(2)), world_size=5)
    assert [
        len(b) for b in drawn(DataLoader(range(2)), world_size=5, pad=False, training=False)
    ] == [1, 1, 0, 0, 0]
