"""Bytes that a rank keeps for Adam under ddp_sharded, on two ranks and on one, counted from the tensors of OSS.

Run it by `python benchmarks/sharded_memory.py` where torchrelay-fairscale is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memory import PROCESSES, STEPS, Count, Kept, largest, parameter_count, train

STRATEGY = "ddp_sharded"


class CountShard(Count):
    """Counts what OSS keeps on this rank."""

    def tensors(self, strategy: Any) -> tuple[Iterable[Any], Iterable[Any], Iterable[Any]]:
        entries = strategy.optimizers[0].optim.state.values()
        state = [value for entry in entries for value in entry.values()]
        return state, (), strategy.module.parameters()


def to_markdown(results: dict[int, Kept]) -> str:
    """A table, with the optimizer's memory over that of one rank."""
    lines = [
        "| ranks | moments | of one rank | parameters | RSS grew by | peak RSS |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    for ranks, kept in results.items():
        cells = [f"{kept.state:.0f}", f"{kept.state / results[1].state:.2f}"]
        cells += [f"{size:.0f}" for size in (kept.parameters, kept.resident, kept.peak)]
        lines.append(f"| {ranks} | {' | '.join(cells)} |")
    note = f"MiB on the rank that keeps most, after {STEPS} updates by Adam of {parameter_count():,} parameters."
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        ranks, folder = sys.argv[1:]
        train(CountShard(Path(folder)), int(ranks), strategy=STRATEGY)
    else:
        print(to_markdown({ranks: largest(__file__, str(ranks)) for ranks in (1, PROCESSES)}))
