"""The figures beside their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from measure import SCRIPTS, Result
from workload import WORKLOADS

STEP_TARGETS = {(1, 32): 1.10, (2, 32): 1.05, (1, 1024): 1.02, (2, 1024): 1.02}
"""torchrelay's time per step over the raw loop's, by processes and width; of the first two workloads."""

WORKLOAD_TARGET = 1.15
"""The same of the other workloads."""

FIRST_STEP_LATER = 0.3
MORE_MEGABYTES = 15
IMPORT_SECONDS = 0.05
LIST_SECONDS = 0.3
LOOKUP_OVER_SCAN = 1.5

NARROW = 32
"""The width at which memory is compared: there the driver's own shows."""


@dataclass(frozen=True)
class Row:
    """One figure of every driver.

    Attributes:
        title: what it is.
        unit: of the values.
        values: by driver.
        target: what torchrelay's value is to reach, in words.
        met: whether it does; None where nothing is asked for.
        ratios: to the raw loop's value, by driver; the median of the rounds' ratios.
        ranges: the lowest and the highest of those ratios: what the machine's unrest leaves open.
    """

    title: str
    unit: str
    values: dict[str, float]
    target: str = ""
    met: bool | None = None
    ratios: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)


def make_rows(results: list[Result], startup: dict[str, Any]) -> list[Row]:
    """Every figure, in the order in which the table shows them."""
    shapes = sorted({(r.processes, r.width) for r in results}, key=lambda s: (s[1], s[0]))
    rows = [
        _step_row(results, *shape, workload)
        for shape in shapes
        for workload in WORKLOADS
        if _runs(results, *shape, workload)
    ]
    processes = sorted({r.processes for r in results})
    rows += [_first_step_row(results, number) for number in processes]
    rows += [_memory_row(results, number) for number in processes]
    return rows + _startup_rows(startup)


def _runs(results: list[Result], processes: int, width: int, workload: str) -> list[Result]:
    """The runs that have measured a workload."""
    return [
        r
        for r in results
        if (r.processes, r.width) == (processes, width) and workload in r.step_microseconds
    ]


def _step_row(results: list[Result], processes: int, width: int, workload: str) -> Row:
    chosen = _runs(results, processes, width, workload)
    values, ratios = _compare(chosen, lambda r: r.step_time(workload), lambda x, raw: x / raw)
    usual = workload in ("plain", "logged")
    target = STEP_TARGETS[processes, width] if usual else WORKLOAD_TARGET
    what = f", {WORKLOADS[workload]}" if WORKLOADS[workload] else ""
    return Row(
        f"step, width {width}, {_processes(processes)}{what}",
        "µs",
        values,
        f"<= {target:.2f}x raw",
        median(ratios["torchrelay"]) <= target,
        {driver: median(found) for driver, found in ratios.items()},
        {driver: (min(found), max(found)) for driver, found in ratios.items()},
    )


def _first_step_row(results: list[Result], processes: int) -> Row:
    chosen = [r for r in results if (r.processes, r.workload) == (processes, "plain")]
    values, later = _compare(chosen, lambda r: r.first_step_seconds, lambda x, raw: x - raw)
    allowed = FIRST_STEP_LATER if processes == 1 else 0.0
    target = f"<= raw + {allowed} s" if processes == 1 else "<= raw (by torchrun)"
    title = f"command to first step, {_processes(processes)}"
    return Row(title, "s", values, target, median(later["torchrelay"]) <= allowed)


def _memory_row(results: list[Result], processes: int) -> Row:
    chosen = _runs(results, processes, NARROW, "plain")
    values, more = _compare(chosen, lambda r: r.peak_megabytes, lambda x, raw: x - raw)
    met = median(more["torchrelay"]) <= MORE_MEGABYTES
    title = f"peak memory, {_processes(processes)}"
    return Row(title, "MB", values, f"<= raw + {MORE_MEGABYTES} MB", met)


def _startup_rows(startup: dict[str, Any]) -> list[Row]:
    seconds = startup["import_seconds"]
    imports = {
        "raw": seconds["torch"],
        "torchrelay": seconds["torchrelay"],
        "Lightning": seconds["lightning"],
        "Accelerate": seconds["accelerate"],
    }
    no_torch = "torch" not in startup["imported_by_torchrelay"]
    quick = imports["torchrelay"] <= IMPORT_SECONDS
    lookup = {name: value * 1e3 for name, value in startup["lookup_seconds"].items()}
    ratio = lookup["lookup"] / lookup["scan"]
    lists = startup["list_seconds"]
    return [
        Row(
            "import (raw: torch)",
            "s",
            imports,
            f"<= {IMPORT_SECONDS} s, no torch",
            quick and no_torch,
        ),
        Row(
            "`torchrelay list`",
            "s",
            {"torchrelay": lists},
            f"<= {LIST_SECONDS} s",
            lists <= LIST_SECONDS,
        ),
        Row(
            "alias among 500 other distributions (raw: bare scan)",
            "ms",
            {"raw": lookup["scan"], "torchrelay": lookup["lookup"]},
            f"<= {LOOKUP_OVER_SCAN}x scan",
            ratio <= LOOKUP_OVER_SCAN,
            {"torchrelay": ratio},
        ),
    ]


def _compare(
    results: list[Result],
    figure: Callable[[Result], float],
    against_raw: Callable[[float, float], float],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Each driver's median, and its comparisons with the raw loop's run of the same round and width."""
    raw = {(r.round, r.width): figure(r) for r in results if r.driver == "raw"}
    runs = {driver: [r for r in results if r.driver == driver] for driver in SCRIPTS}
    values = {driver: median(map(figure, found)) for driver, found in runs.items()}
    compared = {
        driver: [against_raw(figure(r), raw[r.round, r.width]) for r in found]
        for driver, found in runs.items()
    }
    return values, compared


def _processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} DDP processes"


def to_markdown(rows: list[Row], notes: list[str]) -> str:
    """A table, and a list of notes below it."""
    header = ["measured", *SCRIPTS, "target for torchrelay", "met"]
    lines = [header, ["---"] + ["---:"] * len(SCRIPTS) + ["---", "---"]]
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "**no**"
        cells = [_cell(row, driver) for driver in SCRIPTS]
        lines.append([f"{row.title} ({row.unit})", *cells, row.target, met])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n" + "\n".join(f"- {note}" for note in notes) + "\n"


def _cell(row: Row, driver: str) -> str:
    if driver not in row.values:
        return ""
    value = f"{row.values[driver]:.{_digits(row.unit)}f}"
    if driver == "raw" or driver not in row.ratios:
        return value
    low, high = row.ranges.get(driver, (0.0, 0.0))
    between = f"; {low:.2f} to {high:.2f}" if low < high else ""
    return f"{value} ({row.ratios[driver]:.2f}x{between})"


def _digits(unit: str) -> int:
    return {"µs": 0, "s": 2, "ms": 1, "MB": 0, "graphs": 0}[unit]


def to_data(rows: list[Row], notes: list[str], results: list[Result]) -> dict[str, Any]:
    """The same for programs, with every single run."""
    return {
        "rows": [asdict(row) for row in rows],
        "notes": notes,
        "runs": [asdict(result) for result in results],
    }
