"""Bytes that a rank keeps for Adam at each ZeRO stage, counted from the tensors of a DeepSpeed engine.

Run it by `python benchmarks/optimizer_memory.py` where torchrelay-deepspeed is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memory import PROCESSES, STEPS, Count, Kept, largest, parameter_count, train

from torchrelay_deepspeed.layout import places, torch_optimizer

PRECISIONS = ("32-true", "bf16-mixed")
STAGES = (0, 1, 2, 3)


class CountEngine(Count):
    """Counts what is in an engine."""

    def tensors(self, strategy: Any) -> tuple[Iterable[Any], Iterable[Any], Iterable[Any]]:
        engine, module = strategy.model, strategy.module
        found = places(engine, module)
        optimizer = torch_optimizer(engine)
        state = optimizer.state.values() if optimizer else ()
        return (
            [value for entry in state for value in entry.values()],
            [p.master for p in found if p.master is not p.parameter],
            [getattr(each, "ds_tensor", each) for each in module.parameters()],
        )


def measure_all() -> dict[tuple[str, int], Kept]:
    """Of each precision and stage, what the rank that keeps most keeps.

    Raises:
        MeasurementError: a run failed.
    """
    return {
        (precision, stage): largest(__file__, str(stage), precision)
        for precision in PRECISIONS
        for stage in STAGES
    }


def to_markdown(results: dict[tuple[str, int], Kept]) -> str:
    """A table, with the optimizer's memory over that of stage 0."""
    lines = [
        "| precision | stage | moments | masters | together | of stage 0 | parameters | RSS grew by | peak RSS |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (precision, stage), kept in results.items():
        of_all = results[precision, 0].together
        sizes = (kept.state, kept.masters, kept.together)
        cells = [*(f"{size:.0f}" for size in sizes), f"{kept.together / of_all:.2f}"]
        cells += [f"{size:.0f}" for size in (kept.parameters, kept.resident, kept.peak)]
        lines.append(f"| {precision} | {stage} | {' | '.join(cells)} |")
    note = (
        f"MiB on the rank that keeps most of {PROCESSES}, after {STEPS} updates by Adam of "
        f"{parameter_count():,} parameters."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        stage, precision, folder = sys.argv[1:]
        train(CountEngine(Path(folder)), strategy=f"deepspeed_stage_{stage}", precision=precision)
    else:
        print(to_markdown(measure_all()))
