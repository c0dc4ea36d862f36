"""torchrelay's DeepSpeed, FairScale and Horovod strategies beside the bare SDKs that do their work.

`run.py` has these rows in its table where an SDK is installed; `python benchmarks/engine_rows.py` measures them alone,
and `python benchmarks/engine_rows.py fairscale` those of one SDK.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from statistics import median

from measure import Effort, MeasurementError, Result, disagreements, run_driver
from table import Row, to_markdown

OWN = "torchrelay"
PROCESSES, WIDTH, ROUNDS = 2, 32, 5
EFFORT = Effort(
    rounds={}, rival_rounds=0, segments=6, workloads={}, warmup={WIDTH: 100}, segment={WIDTH: 50}
)
TARGET = 1.05
"""torchrelay's figure over the bare SDK's."""


@dataclass(frozen=True)
class Sdk:
    """What does the work of some strategies.

    Attributes:
        name: as its authors write it.
        package: its distribution; the plugin is `torchrelay-PACKAGE`.
        driver: of `measure.ENGINES`.
        strategies: aliases of torchrelay's that are compared with it.
        same: what the driver has in common with them.
    """

    name: str
    package: str
    driver: str
    strategies: tuple[str, ...]
    same: str

    @property
    def missing(self) -> str:
        """Why nothing can be measured; empty if it can."""
        for name in (self.package, f"torchrelay-{self.package}"):
            try:
                version(name)
            except PackageNotFoundError:
                return f"{name} is not installed: no rows of {self.name}"
        return ""

    def choose(self, results: list[Result]) -> list[Result]:
        """Those that are of this SDK."""
        return [result for result in results if result.strategy in self.strategies]


SDKS = (
    Sdk(
        "DeepSpeed",
        "deepspeed",
        "bare engine",
        ("deepspeed_stage_2", "deepspeed_stage_3"),
        "the engine's configuration",
    ),
    Sdk(
        "FairScale",
        "fairscale",
        "bare FairScale",
        ("ddp_sharded",),
        "OSS under DistributedDataParallel",
    ),
    Sdk(
        "Horovod",
        "horovod",
        "bare Horovod",
        ("horovod",),
        "averaging by Horovod's allreduce",
    ),
)


def measure_engine(
    rounds: int, tell: Callable[[str], None], sdks: Sequence[Sdk] = SDKS
) -> list[Result]:
    """Run every case in turns, in every other round in the opposite order; nothing of an SDK that is missing.

    Raises:
        MeasurementError: a driver failed.
    """
    results: list[Result] = []
    for sdk in sdks:
        if sdk.missing:
            tell(sdk.missing)
            continue
        drivers = (sdk.driver, OWN)
        short = replace(EFFORT, segments=1)
        for driver in drivers:
            run_driver(driver, PROCESSES, WIDTH, "plain", -1, short, sdk.strategies[0])
        tell(f"{sdk.name} once for nothing, which leaves what it compiles")
        for turn in range(rounds):
            order = drivers if turn % 2 == 0 else drivers[::-1]
            results += [
                run_driver(driver, PROCESSES, WIDTH, "plain", turn, EFFORT, strategy)
                for strategy in sdk.strategies
                for driver in order
            ]
            tell(f"round {turn + 1} with {sdk.name}")
    return results


def make_engine_notes(results: list[Result]) -> list[str]:
    """What a reader must know of the figures."""
    return [_note(sdk, sdk.choose(results)) for sdk in SDKS]


def _note(sdk: Sdk, results: list[Result]) -> str:
    if not results:
        return f"{sdk.missing or f'No rows of {sdk.name}'}."
    others = disagreements(results)
    agreement = f"differ in {', '.join(others)}" if others else "agree"
    return (
        f"Rows of {sdk.name} {version(sdk.package)}: {PROCESSES} processes over gloo, {sdk.same} the "
        f"same; its losses and torchrelay's {agreement}."
    )


def make_engine_rows(results: list[Result]) -> list[Row]:
    """Time and memory, in the table's first column the bare SDK's; none without results."""
    rows = []
    for sdk in SDKS:
        for strategy in sdk.strategies:
            chosen = [result for result in results if result.strategy == strategy]
            if chosen:
                rows += [
                    _row(sdk, chosen, "step", "µs", lambda result: result.step_time("plain")),
                    _row(
                        sdk,
                        chosen,
                        "step, loss logged",
                        "µs",
                        lambda result: result.step_time("logged"),
                    ),
                    _row(sdk, chosen, "peak memory", "MB", lambda result: result.peak_megabytes),
                ]
    return rows


def _row(
    sdk: Sdk, results: list[Result], what: str, unit: str, figure: Callable[[Result], float]
) -> Row:
    bare, own = ([figure(r) for r in results if r.driver == d] for d in (sdk.driver, OWN))
    ratios = [ours / theirs for ours, theirs in zip(own, bare, strict=True)]
    return Row(
        f"{what}, {results[0].strategy}, {PROCESSES} processes (raw: {sdk.driver})",
        unit,
        {"raw": median(bare), "torchrelay": median(own)},
        f"<= {TARGET:.2f}x {sdk.driver}",
        median(ratios) <= TARGET,
        {"torchrelay": median(ratios)},
        {"torchrelay": (min(ratios), max(ratios))},
    )


def _main() -> int:
    try:
        wanted = [sdk for sdk in SDKS if not sys.argv[1:] or sdk.package in sys.argv[1:]]
        tell = partial(print, file=sys.stderr, flush=True)
        results = measure_engine(ROUNDS, tell, wanted)
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 1
    print(to_markdown(make_engine_rows(results), make_engine_notes(results)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
