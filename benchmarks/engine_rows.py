"""torchrelay's DeepSpeed strategies beside the bare engine that does their work.

`run.py` has these rows in its table where DeepSpeed is installed; `python benchmarks/engine_rows.py` measures them
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from measure import Effort, MeasurementError, Result, disagreements, run_driver
from table import Row, to_markdown

DRIVERS = ("bare engine", "torchrelay")
STRATEGIES = ("deepspeed_stage_2", "deepspeed_stage_3")
PROCESSES, WIDTH, ROUNDS = 2, 32, 5
EFFORT = Effort(
    rounds={}, rival_rounds=0, segments=6, workloads={}, warmup={WIDTH: 100}, segment={WIDTH: 50}
)
TARGET = 1.05
"""torchrelay's figure over the bare engine's."""


def missing() -> str:
    """Why nothing can be measured; empty if it can."""
    for name in ("deepspeed", "torchrelay-deepspeed"):
        try:
            version(name)
        except PackageNotFoundError:
            return f"{name} is not installed: no rows of DeepSpeed"
    return ""


def measure_engine(rounds: int, tell: Callable[[str], None]) -> list[Result]:
    """Run every case in turns, in every other round in the opposite order; nothing where DeepSpeed is missing.

    Raises:
        MeasurementError: a driver failed.
    """
    if missing():
        tell(missing())
        return []
    short = replace(EFFORT, segments=1)
    for driver in DRIVERS:
        run_driver(driver, PROCESSES, WIDTH, "plain", -1, short, STRATEGIES[0])
    tell("DeepSpeed once for nothing, which leaves its extensions compiled")
    results: list[Result] = []
    for turn in range(rounds):
        order = DRIVERS if turn % 2 == 0 else DRIVERS[::-1]
        results += [
            run_driver(driver, PROCESSES, WIDTH, "plain", turn, EFFORT, strategy)
            for strategy in STRATEGIES
            for driver in order
        ]
        tell(f"round {turn + 1} with DeepSpeed")
    return results


def make_engine_notes(results: list[Result]) -> list[str]:
    """What a reader must know of the figures."""
    if not results:
        return [f"{missing()}."]
    others = disagreements(results)
    agreement = f"differ in {', '.join(others)}" if others else "agree"
    return [
        f"Rows of DeepSpeed {version('deepspeed')}: {PROCESSES} processes over gloo, the engine's configuration the "
        f"same; its losses and torchrelay's {agreement}."
    ]


def make_engine_rows(results: list[Result]) -> list[Row]:
    """Time and memory, in the table's first column the bare engine's; none without results."""
    rows = []
    for strategy in sorted({result.strategy for result in results}):
        chosen = [result for result in results if result.strategy == strategy]
        rows += [
            _row(chosen, "step", "µs", lambda result: result.step_time("plain")),
            _row(chosen, "step, loss logged", "µs", lambda result: result.step_time("logged")),
            _row(chosen, "peak memory", "MB", lambda result: result.peak_megabytes),
        ]
    return rows


def _row(results: list[Result], what: str, unit: str, figure: Callable[[Result], float]) -> Row:
    bare, own = ([figure(r) for r in results if r.driver == driver] for driver in DRIVERS)
    ratios = [ours / theirs for ours, theirs in zip(own, bare, strict=True)]
    return Row(
        f"{what}, {results[0].strategy}, {PROCESSES} processes (raw: bare engine)",
        unit,
        {"raw": median(bare), "torchrelay": median(own)},
        f"<= {TARGET:.2f}x bare engine",
        median(ratios) <= TARGET,
        {"torchrelay": median(ratios)},
        {"torchrelay": (min(ratios), max(ratios))},
    )


def _main() -> int:
    try:
        results = measure_engine(ROUNDS, lambda what: print(what, file=sys.stderr, flush=True))
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 1
    print(to_markdown(make_engine_rows(results), make_engine_notes(results)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
