"""Saving a checkpoint of 100 million parameters: torch.save with fsync, TorchCheckpointIO, AsyncCheckpointIO.

    python benchmarks/checkpoint.py --folder /where/checkpoints/go --output checkpoint.md

Each case runs in fresh processes, in turns; every save goes to a new file, as checkpoints do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from measure import MeasurementError, run

TENSORS, SIDE = 100, 1000
"""The state: as many square matrices of 32-bit floats."""

SAVES = 6
"""Saves a process; the first one, for which memory has to be found, is told apart."""

SAVE_OVER_BARE = 1.20
STALL_OVER_BARE = 0.15

Save = Callable[[dict[str, Any], Path], None]


def bare() -> tuple[Save, Callable[[], None]]:
    """What the others are compared with."""
    import torch

    def save(state: dict[str, Any], path: Path) -> None:
        with path.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    return save, lambda: None


def at_once() -> tuple[Save, Callable[[], None]]:
    from torchrelay.checkpoint import TorchCheckpointIO

    return TorchCheckpointIO().save_checkpoint, lambda: None


def in_background() -> tuple[Save, Callable[[], None]]:
    from torchrelay.checkpoint import AsyncCheckpointIO

    io = AsyncCheckpointIO()
    return io.save_checkpoint, io.wait


CASES = {
    "torch.save + fsync": bare,
    "TorchCheckpointIO": at_once,
    "AsyncCheckpointIO": in_background,
}


def measure(case: str, folder: Path) -> dict[str, Any]:
    """How long the caller waits for each save and until each is written, and the most memory, in this process."""
    import torch
    from used import peak_megabytes

    state = {"state_dict": {str(i): torch.randn(SIDE, SIDE) for i in range(TENSORS)}}
    before = peak_megabytes()
    save, wait = CASES[case]()
    stalls, totals = [], []
    for number in range(SAVES):
        path = folder / f"{number}.ckpt"
        start = time.perf_counter()
        save(state, path)
        stalls.append(time.perf_counter() - start)
        wait()
        totals.append(time.perf_counter() - start)
        path.unlink()
    return {"stalls": stalls, "totals": totals, "before": before, "peak": peak_megabytes()}


def measure_all(rounds: int, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every case in a process of its own, as often as there are rounds.

    Raises:
        MeasurementError: a process failed.
    """
    results: dict[str, list[dict[str, Any]]] = {case: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES if turn % 2 == 0 else reversed(CASES):
            command = [sys.executable, __file__, "--folder", str(folder), "--case", case]
            results[case].append(json.loads(run(command)))
        print(f"round {turn + 1}", file=sys.stderr, flush=True)
    return results


def to_markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """A table; ratios are medians of ratios within a round."""
    lines = [
        "| | caller waits, s | over bare | first save, s | written after, s | memory, MB | of it for saving |"
    ]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    ratios = {}
    for case, runs in results.items():
        waits = [median(each["stalls"][1:]) for each in runs]
        bares = [median(each["stalls"][1:]) for each in results["torch.save + fsync"]]
        ratios[case] = median(wait / bare for wait, bare in zip(waits, bares, strict=True))
        first = median(each["stalls"][0] for each in runs)
        written = median(median(each["totals"][1:]) for each in runs)
        peak = median(each["peak"] for each in runs)
        saving = median(each["peak"] - each["before"] for each in runs)
        cells = [f"{median(waits):.3f}", f"{ratios[case]:.2f}x", f"{first:.3f}", f"{written:.3f}"]
        lines.append(f"| {case} | {' | '.join(cells)} | {peak:.0f} | {saving:.0f} |")
    verdicts = [
        f"- TorchCheckpointIO <= {SAVE_OVER_BARE:.2f}x bare: {_met(ratios['TorchCheckpointIO'] <= SAVE_OVER_BARE)}",
        f"- AsyncCheckpointIO's stall <= {STALL_OVER_BARE:.2f}x bare: "
        f"{_met(ratios['AsyncCheckpointIO'] <= STALL_OVER_BARE)}",
    ]
    megabytes = TENSORS * SIDE**2 * 4 / 1e6
    note = f"- {TENSORS * SIDE**2 / 1e6:.0f} M parameters, {megabytes:.0f} MB; medians of {len(runs)} rounds."
    return "\n".join([*lines, "", *verdicts, note]) + "\n"


def _met(yes: bool) -> str:
    return "yes" if yes else "**no**"


def main() -> int:
    arguments = parse()
    if arguments.case:
        print(json.dumps(measure(arguments.case, arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        try:
            results = measure_all(arguments.rounds, Path(folder))
        except MeasurementError as error:
            print(error, file=sys.stderr)
            return 1
    text = to_markdown(results)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to write; a folder for temporary files when absent"
    )
    parser.add_argument("--rounds", type=int, default=5, help="processes for each case")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
