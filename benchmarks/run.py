"""torchrelay beside a raw PyTorch loop, Lightning and Accelerate: speed and memory, in one table.

Run it by `python -m tox run -e bench -- --output bench.md --json bench.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

from engine_rows import ROUNDS, make_engine_notes, make_engine_rows, measure_engine
from measure import Effort, MeasurementError, Result, disagreements, run_all
from startup import measure_startup
from table import make_rows, to_data, to_markdown
from workload import WORKLOADS

# "logged" is the second half of the plain run; what the driver adds shows where the network is narrow.
OWN_RUNS = tuple(name for name in WORKLOADS if name != "logged")
# Long enough for a loss to be delivered at every width, so that the drivers' losses can be compared.
FULL = Effort(
    rounds={1: 6, 2: 3},
    rival_rounds=2,
    segments=10,
    workloads={32: OWN_RUNS, 1024: ("plain",)},
    warmup={32: 200, 1024: 10},
    segment={32: 100, 1024: 5},
)
QUICK = Effort(
    rounds={1: 1, 2: 1},
    rival_rounds=1,
    segments=4,
    workloads={32: OWN_RUNS, 1024: ("plain",)},
    warmup={32: 100, 1024: 10},
    segment={32: 100, 1024: 15},
)


def main() -> int:
    arguments = parse()
    start = time.time()

    def tell(what: str) -> None:
        print(f"{time.time() - start:4.0f} s  {what}", file=sys.stderr, flush=True)

    try:
        startup = measure_startup(repeats=1 if arguments.quick else 3)
        tell("imports, list, look-up")
        results = run_all(QUICK if arguments.quick else FULL, tell)
        of_engine = measure_engine(1 if arguments.quick else ROUNDS, tell)
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 1
    rows = make_rows(results, startup) + make_engine_rows(of_engine)
    notes = make_notes(results, startup["imported_by_torchrelay"]) + make_engine_notes(of_engine)
    text = to_markdown(rows, notes)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(to_data(rows, notes, results + of_engine), indent=1))
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round: see that it runs")
    parser.add_argument("--output", type=Path, help="write the table to this file too")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def make_notes(results: list[Result], imported: list[str]) -> list[str]:
    """What a reader must know of the figures."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "accelerate"))
    others = disagreements(results)
    agreement = f"differ in {', '.join(others)}" if others else "agree in every run"
    rounds = max(result.round for result in results) + 1
    return [
        f"Python {platform.python_version()}, {versions}; {os.cpu_count()} cores, one thread a process.",
        "SGD on a perceptron with two hidden layers, batches of 32 in memory, DDP over gloo; no "
        "checkpoints, progress bar, summary or sanity check anywhere.",
        "The workloads but the first also log the loss. Ten metrics: by step and by epoch. Callbacks: three with "
        "two hooks each, in a raw loop six calls. Validation: 20 batches after every 100. Where a library has no "
        "such notion, its loop is the raw one's.",
        f"Medians of up to {rounds} interleaved rounds, each run in fresh processes; ratios are "
        "medians of ratios within a round, with their lowest and highest.",
        f"The losses {agreement}.",
        f"`import torchrelay` imports {', '.join(imported)}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
