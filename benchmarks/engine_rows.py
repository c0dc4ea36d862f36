"""torchrelay's DeepSpeed, FairScale, Horovod and XLA strategies beside the bare SDKs that do their work.

`run.py` has these rows in its table where an SDK is installed; `python benchmarks/engine_rows.py` measures them alone,
and `python benchmarks/engine_rows.py fairscale` those of one plugin. torch-xla has a torch of its own, so its rows are
measured in its environment: `python -m tox exec -e tpu -- python benchmarks/engine_rows.py tpu`.
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
WIDTH, ROUNDS = 32, 5
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
        package: its distribution.
        plugin: torchrelay's is `torchrelay-PLUGIN`.
        driver: of `measure.ENGINES`.
        strategies: aliases of torchrelay's that are compared with it.
        same: what the driver has in common with them.
        processes: how many train together.
        accelerator: torchrelay's kind of device.
    """

    name: str
    package: str
    plugin: str
    driver: str
    strategies: tuple[str, ...]
    same: str
    processes: int = 2
    accelerator: str = "cpu"

    @property
    def missing(self) -> str:
        """Why nothing can be measured; empty if it can."""
        for name in (self.package, f"torchrelay-{self.plugin}"):
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
        "deepspeed",
        "bare engine",
        ("deepspeed_stage_2", "deepspeed_stage_3"),
        "the engine's configuration",
    ),
    Sdk(
        "FairScale",
        "fairscale",
        "fairscale",
        "bare FairScale",
        ("ddp_sharded",),
        "OSS under DistributedDataParallel",
    ),
    Sdk(
        "Horovod",
        "horovod",
        "horovod",
        "bare Horovod",
        ("horovod",),
        "averaging by Horovod's allreduce",
    ),
    Sdk(
        "torch-xla",
        "torch_xla",
        "tpu",
        "bare torch-xla",
        ("single_tpu",),
        "one device",
        processes=1,
        accelerator="tpu",
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
        for driver in drivers:
            _run(sdk, driver, sdk.strategies[0], -1, replace(EFFORT, segments=1))
        tell(f"{sdk.name} once for nothing, which leaves what it compiles")
        for turn in range(rounds):
            order = drivers if turn % 2 == 0 else drivers[::-1]
            results += [
                _run(sdk, driver, strategy, turn, EFFORT)
                for strategy in sdk.strategies
                for driver in order
            ]
            tell(f"round {turn + 1} with {sdk.name}")
        if any(result.compilations for result in results):
            # In the rounds, logging begins amid a run, which makes the step another graph.
            results += [
                _run(sdk, driver, sdk.strategies[0], 0, EFFORT, "logged") for driver in drivers
            ]
    return results


def _run(
    sdk: Sdk, driver: str, strategy: str, turn: int, effort: Effort, workload: str = "plain"
) -> Result:
    return run_driver(
        driver, sdk.processes, WIDTH, workload, turn, effort, strategy, sdk.accelerator
    )


def make_engine_notes(results: list[Result]) -> list[str]:
    """What a reader must know of the figures."""
    return [_note(sdk, sdk.choose(results)) for sdk in SDKS]


def _note(sdk: Sdk, results: list[Result]) -> str:
    if not results:
        return f"{sdk.missing or f'No rows of {sdk.name}'}."
    others = disagreements(results)
    agreement = f"differ in {', '.join(others)}" if others else "agree"
    gloo = " over gloo" if sdk.processes > 1 else ""
    return (
        f"Rows of {sdk.name} {version(sdk.package)}: {_processes(sdk)}{gloo}, {sdk.same} the same; its "
        f"losses and torchrelay's {agreement}."
    )


def _processes(sdk: Sdk) -> str:
    return "1 process" if sdk.processes == 1 else f"{sdk.processes} processes"


def make_engine_rows(results: list[Result]) -> list[Row]:
    """Time, memory and what XLA compiles, in the table's first column the bare SDK's; none without results."""
    rows = []
    for sdk in SDKS:
        for strategy in sdk.strategies:
            chosen = [result for result in results if result.strategy == strategy]
            both = [result for result in chosen if result.workload == "plain"]
            if both:
                rows += [_row(sdk, both, *each) for each in FIGURES]
            if any(result.compilations for result in chosen):
                logged = [result for result in chosen if result.workload == "logged"]
                rows.append(_compilations_row(sdk, both, "compiled"))
                rows.append(_compilations_row(sdk, logged, "compiled, loss logged"))
    return rows


FIGURES: tuple[tuple[str, str, Callable[[Result], float]], ...] = (
    ("step", "µs", lambda result: result.step_time("plain")),
    ("step, loss logged", "µs", lambda result: result.step_time("logged")),
    ("peak memory", "MB", lambda result: result.peak_megabytes),
)


def _row(
    sdk: Sdk, results: list[Result], what: str, unit: str, figure: Callable[[Result], float]
) -> Row:
    bare, own = _compared(sdk, results, figure)
    ratios = [ours / theirs for ours, theirs in zip(own, bare, strict=True)]
    return Row(
        _title(sdk, results, what),
        unit,
        {"raw": median(bare), "torchrelay": median(own)},
        f"<= {TARGET:.2f}x {sdk.driver}",
        median(ratios) <= TARGET,
        {"torchrelay": median(ratios)},
        {"torchrelay": (min(ratios), max(ratios))},
    )


def _compilations_row(sdk: Sdk, results: list[Result], what: str) -> Row:
    bare, own = _compared(sdk, results, lambda result: result.compilations)
    values = {"raw": median(bare), "torchrelay": median(own)}
    return Row(_title(sdk, results, what), "graphs", values, "as many", bare == own)


def _compared(
    sdk: Sdk, results: list[Result], figure: Callable[[Result], float]
) -> tuple[list[float], list[float]]:
    """The figures of the bare SDK and of torchrelay, round by round."""
    bare, own = ([figure(r) for r in results if r.driver == d] for d in (sdk.driver, OWN))
    return bare, own


def _title(sdk: Sdk, results: list[Result], what: str) -> str:
    return f"{what}, {results[0].strategy}, {_processes(sdk)} (raw: {sdk.driver})"


def _main() -> int:
    try:
        wanted = [sdk for sdk in SDKS if not sys.argv[1:] or sdk.plugin in sys.argv[1:]]
        tell = partial(print, file=sys.stderr, flush=True)
        results = measure_engine(ROUNDS, tell, wanted)
    except MeasurementError as error:
        print(error, file=sys.stderr)
        return 1
    print(to_markdown(make_engine_rows(results), make_engine_notes(results)))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
