"""Runs the drivers, each case in a fresh process, one after another and in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
TIMEOUT = 300
"""Seconds after which a program hangs."""

SCRIPTS = {
    "raw": "raw.py",
    "torchrelay": "relay.py",
    "Lightning": "lightning_driver.py",
    "Accelerate": "accelerate_driver.py",
}
ENGINES = {
    "bare engine": "engine.py",
    "bare FairScale": "oss.py",
    "bare Horovod": "allreduce.py",
    "bare torch-xla": "lazy.py",
}
"""Drivers that take part beside torchrelay alone, and only where their SDK is installed."""
BY_TORCHRUN = ("raw", "Accelerate", "bare engine", "bare FairScale")
BY_HOROVODRUN = ("bare Horovod",)
"""The drivers that start no processes themselves."""

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # An installed package has its bytecode; compiling torchrelay's at every start would be no fair comparison.
    "PYTHONDONTWRITEBYTECODE": "",
}


class MeasurementError(Exception):
    """A program failed that was to be measured."""


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: turns of raw and torchrelay, by number of processes.
        rival_rounds: how many of those Lightning and Accelerate take part in.
        segments: readings a run; of the plain loop as many again with the loss logged.
        workloads: those that have a run of their own, by width; see `workload.WORKLOADS`.
        warmup: steps before the first reading, by width.
        segment: steps a reading, by width.
    """

    rounds: dict[int, int]
    rival_rounds: int
    segments: int
    workloads: dict[int, tuple[str, ...]]
    warmup: dict[int, int]
    segment: dict[int, int]


@dataclass(frozen=True)
class Result:
    """What one run of a driver measured."""

    driver: str
    processes: int
    width: int
    workload: str
    strategy: str
    round: int
    first_step_seconds: float
    step_microseconds: dict[str, list[float]]
    peak_megabytes: float
    compilations: int
    losses: list[list[float]]

    def step_time(self, workload: str) -> float:
        """Microseconds per step of a workload that the run has measured."""
        return median(self.step_microseconds[workload])


def run_all(effort: Effort, tell: Callable[[str], None]) -> list[Result]:
    """Run every case, round by round; in every other round in the opposite order.

    Raises:
        MeasurementError: a driver failed.
    """
    for driver in SCRIPTS:
        run_driver(driver, max(effort.rounds), min(effort.segment), "plain", -1, effort)
    tell("a first run for nothing, which leaves bytecode and warm files")
    results: list[Result] = []
    for turn in range(max(effort.rounds.values())):
        drivers = list(SCRIPTS) if turn < effort.rival_rounds else ["raw", "torchrelay"]
        order = drivers if turn % 2 == 0 else drivers[::-1]
        for processes in (number for number, rounds in effort.rounds.items() if turn < rounds):
            results += [
                run_driver(driver, processes, width, workload, turn, effort)
                for width in effort.segment
                for workload in effort.workloads[width]
                for driver in order
            ]
            tell(f"round {turn + 1} with {processes} process(es)")
    return results


def run_driver(
    driver: str,
    processes: int,
    width: int,
    workload: str,
    turn: int,
    effort: Effort,
    strategy: str = "",
    accelerator: str = "cpu",
) -> Result:
    """Run one driver once, in processes of its own.

    Args:
        driver: of `SCRIPTS` or `ENGINES`.
        processes: how many train together.
        width: of the network's layers.
        workload: which of `workload.WORKLOADS`.
        turn: number of the round.
        effort: how long it runs.
        strategy: alias of torchrelay's strategy, where one is compared with what it drives.
        accelerator: torchrelay's kind of device.

    Raises:
        MeasurementError: it failed.
    """
    command = [sys.executable]
    if processes > 1 and driver in BY_TORCHRUN:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    if processes > 1 and driver in BY_HOROVODRUN:
        launcher = [*command, "-m", "horovod.runner.launch", "-np", str(processes)]
        command = [*launcher, *command]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        case = {
            "width": width,
            "processes": processes,
            "warmup": effort.warmup[width],
            "segment": effort.segment[width],
            "segments": effort.segments,
            "workload": workload,
            "strategy": strategy,
            "accelerator": accelerator,
            "report": str(report),
            "started": time.time(),
        }
        run([*command, str(HERE / {**SCRIPTS, **ENGINES}[driver]), json.dumps(case)])
        measured = json.loads(report.read_text())
    return Result(driver, processes, width, workload, strategy, turn, **measured)


def run(command: list[str], **variables: str) -> str:
    """Run a program and return what it printed.

    Raises:
        MeasurementError: it failed, or did not end.
    """
    environment = {**ENVIRONMENT, **variables}
    options: dict[str, Any] = {"capture_output": True, "text": True, "env": environment}
    try:
        done = subprocess.run(command, check=False, timeout=TIMEOUT, **options)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"{' '.join(command)}: no end after {TIMEOUT} s") from None
    if done.returncode:
        last_words = "\n".join(done.stderr.splitlines()[-20:])
        raise MeasurementError(f"{' '.join(command)}: exit code {done.returncode}\n{last_words}")
    return done.stdout


def disagreements(results: list[Result]) -> list[str]:
    """The drivers whose losses are not those of the raw loop, which means that they trained something else."""
    first: dict[tuple[int, str], Any] = {}
    found = []
    for result in results:
        expected = first.setdefault((result.width, result.workload), result.losses)
        if not expected or not _close(expected, result.losses):
            case = f"width {result.width}, processes {result.processes}, {result.workload}"
            found.append(f"{result.driver} ({case})")
    return sorted(set(found))


def _close(expected: list[list[float]], losses: list[list[float]]) -> bool:
    """Whether the same updates have the same losses; two ranks' mean may differ in the last digits."""
    return len(expected) == len(losses) and all(
        step == other and abs(loss - others) < 1e-3 * abs(loss)
        for (step, loss), (other, others) in zip(expected, losses, strict=True)
    )
