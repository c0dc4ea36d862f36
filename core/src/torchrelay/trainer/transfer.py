"""How a batch reaches the device, found once, so that a step whose batches are there already pays nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchrelay.module import is_overridden
from torchrelay.strategies.strategy import Strategy

Move = Callable[[Any], Any]
Hook = Callable[..., Any]


def usual_move(strategy: Strategy) -> Move | None:
    """The strategy's way of moving a batch; None where batches are there already."""
    own = is_overridden("batch_to_device", strategy, Strategy)
    elsewhere = strategy.root_device.type != "cpu"
    if own or elsewhere or strategy.precision_plugin.converts_batches:
        return strategy.batch_to_device
    return None


def mover(
    strategy: Strategy,
    dataloader_idx: int,
    before: Hook | None,
    transfer: Hook | None,
    after: Hook | None,
) -> Move | None:
    """The function that moves a batch and lets the user's hooks change it; None where nothing is to be done.

    Args:
        strategy: moves the batch, unless `transfer` does.
        dataloader_idx: number of the loader, for the hooks.
        before: changes the batch first.
        transfer: moves it; the precision's format is given to the result in any case.
        after: changes it last.
    """
    move = (
        usual_move(strategy) if transfer is None else _through(strategy, transfer, dataloader_idx)
    )
    if before is None and after is None:
        return move

    def whole(batch: Any) -> Any:
        if before is not None:
            batch = before(batch, dataloader_idx)
        if move is not None:
            batch = move(batch)
        return batch if after is None else after(batch, dataloader_idx)

    return whole


def _through(strategy: Strategy, transfer: Hook, dataloader_idx: int) -> Move:
    precision, device = strategy.precision_plugin, strategy.root_device

    def move(batch: Any) -> Any:
        batch = transfer(batch, device, dataloader_idx)
        return precision.convert_batch(batch) if precision.converts_batches else batch

    return move
