"""What Horovod's collectives answer on each of three ranks, of which the first two are a process set."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import Any

warnings.simplefilter("error")

import torch  # noqa: E402
from problems import leave  # noqa: E402

from torchrelay_horovod import HorovodCollectives, HorovodEnvironment  # noqa: E402
from torchrelay_horovod.vendor import is_started  # noqa: E402

PAIR = (0, 1)
DTYPES = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
OPERATIONS = ("mean", "sum", "min", "max", "product")


def attempt(call: Callable[[], Any]) -> Any:
    """What a call answers, or what it is refused by."""
    try:
        return call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def among_all(talk: Any) -> dict[str, Any]:
    """Operations of all ranks."""
    rank, ones = talk.rank, torch.tensor([1, 2, 3])
    facts = {
        "reduced": {
            dtype: {op: talk.reduce((ones * (rank + 1)).to(dtype), op) for op in OPERATIONS}
            for dtype in DTYPES
        },
        "zero_dim": [talk.reduce(torch.tensor(float(rank)), "sum"), talk.reduce(rank, "mean")],
        "complex": talk.reduce(torch.tensor([1 + 2j, rank * 1j]), "mean"),
        "complex max": attempt(lambda: talk.reduce(torch.tensor([1j]), "max")),
        "gathered": {
            dtype: talk.all_gather((ones + rank).to(dtype).reshape(3, 1)) for dtype in DTYPES
        },
        "gathered zero_dim": talk.all_gather({"a": torch.tensor(rank), "b": float(rank)}),
        "ragged": attempt(lambda: talk.all_gather(torch.ones(rank + 1))),
        "empty": [talk.reduce(torch.ones(0)), talk.all_gather(torch.ones(2, 0))],
        "objects": talk.gather_objects({"rank": rank, "more": "x" * rank}),
        "broadcast": [talk.broadcast([rank, torch.ones(2) * rank], src=s) for s in range(3)],
    }
    with torch.inference_mode():
        facts["inference"] = [
            *(talk.reduce(ones.float()), talk.all_gather(ones), talk.broadcast(rank))
        ]
    shared = {
        "bf16": torch.full((2, 2), float(rank), dtype=torch.bfloat16).t(),
        "flag": torch.tensor(rank == 0),
        "none": torch.ones(0),
        "count": torch.tensor(rank),
    }
    talk.share(shared)
    return {**facts, "shared": shared}


def among_two(talk: Any) -> dict[str, Any]:
    """Operations of the process set; ranks that have made other numbers of operations meet afterwards all the same."""
    rank = talk.rank
    facts: dict[str, Any] = {
        "whole": talk.within([2, 1, 0]) is talk,
        "unknown": attempt(lambda: talk.within([0, 2])),
    }
    if rank in PAIR:
        pair = talk.within(PAIR)
        facts["pair"] = {
            "place": (pair.rank, pair.world_size),
            "mean": pair.reduce(torch.tensor([float(rank)])),
            "bf16": pair.reduce(torch.tensor([1.0, rank], dtype=torch.bfloat16), "max"),
            "gathered": pair.all_gather(torch.tensor([rank])),
            "last": pair.broadcast(rank, src=1),
            "objects": pair.gather_objects(rank),
        }
    else:
        facts["outside"] = attempt(lambda: talk.within(PAIR))
    facts["after"] = talk.reduce(rank, "sum")
    begun = time.monotonic()
    if rank == 0:
        time.sleep(0.5)
    talk.barrier("late")
    return {**facts, "waited": time.monotonic() - begun}


def main() -> None:
    environment, cpu = HorovodEnvironment(), torch.device("cpu")
    talk: Any = HorovodCollectives([PAIR])
    before = dict(os.environ)
    facts: dict[str, Any] = {"refused": attempt(lambda: talk.reduce(1))}
    talk.connect(environment, cpu)
    rank = talk.rank
    facts |= {"place": (rank, talk.world_size), **among_all(talk), **among_two(talk)}
    talk.close()
    facts["closed"] = (talk.rank, talk.world_size, is_started(), dict(os.environ) == before)
    again = HorovodCollectives([(0, 2)])
    again.connect(environment, cpu)
    facts["again"] = again.reduce(rank, "sum")
    again.close()
    wrong = HorovodCollectives([(0, 3)])
    facts["wrong"] = attempt(lambda: wrong.connect(environment, cpu))
    leave("talk", rank, facts)


if __name__ == "__main__":
    main()
