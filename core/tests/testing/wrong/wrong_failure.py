"""Strategies that fail as they should, but for one thing."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from wrong_base import PairStrategy

from torchrelay.errors import LaunchError, WorkerError
from torchrelay.launchers import Launcher, ScriptLauncher
from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject
from torchrelay.testing.forkserver.server import NAME as SERVER

# Until the kit removes the folder of the program's temporary files.
WAIT = "import os, sys, time\nwhile os.path.exists(sys.argv[1]): time.sleep(0.2)"


DISGUISE = f"import ctypes; ctypes.CDLL(None).prctl(15, {SERVER.encode()!r})  # PR_SET_NAME\n"


def start_helper(before: str = "", **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", before + WAIT, os.environ["TMPDIR"]]
    return subprocess.Popen(command, **options)


class QuietBeforeTraining(SingleDeviceStrategy):
    """Its launcher takes an early failure for the end."""

    def default_launcher(self) -> Launcher | None:
        return Quiet(self)


class Quiet(Launcher):
    name = "quiet"
    returns_to_caller = False

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy

    def launch(self, function: Any, /, *args: Any) -> Any:
        try:
            return function(*args)
        except ValueError:
            if not self.strategy.optimizers:
                raise SystemExit(0) from None
            raise


class QuietInSteps(SingleDeviceStrategy):
    """A step that fails ends the process as if all were done."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        try:
            return super().training_step(batch, batch_idx)
        except ValueError:
            raise SystemExit(0) from None


class QuietInValidation(SingleDeviceStrategy):
    """A step of validation that fails ends the process as if all were done."""

    def evaluation_step(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().evaluation_step(*args, **kwargs)
        except ValueError:
            raise SystemExit(0) from None


class KnowsNoSignals(PairStrategy):
    """Its launcher does not say how a rank ended."""

    def default_launcher(self) -> Launcher | None:
        return Vague(self.cluster_environment, self.processes_per_node)


class Vague(ScriptLauncher):
    def launch(self, function: Any, /, *args: Any) -> Any:
        try:
            return super().launch(function, *args)
        except WorkerError as error:
            if "SIGKILL" in str(error):
                raise LaunchError("a connection broke") from None
            raise


class GoesOnWithoutMemory(SingleDeviceStrategy):
    """Leaves out a batch for which there is no memory."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        try:
            return super().training_step(batch, batch_idx)
        except torch.OutOfMemoryError:
            return self.module(batch[0]).sum() * 0


class LeavesAHelper(SingleDeviceStrategy):
    """Starts a helper and forgets it."""

    def setup_environment(self) -> None:
        super().setup_environment()
        self.helper = start_helper()


class LeavesVariables(SingleDeviceStrategy):
    """Sets a variable and forgets it."""

    def setup_environment(self) -> None:
        super().setup_environment()
        os.environ["WRONG_CLUSTER"] = "here"


class LeavesAPort(SingleDeviceStrategy):
    """Lets a helper inherit the socket on which it listens, and the kit take the helper for one of its own."""

    def setup_environment(self) -> None:
        super().setup_environment()
        self.door = socket.create_server(("127.0.0.1", 0))
        kept = (self.door.fileno(),)
        self.helper = start_helper(DISGUISE, pass_fds=kept, start_new_session=True)


class TrainsOnce(SingleDeviceStrategy):
    """Counts its fits, and makes no updates in the second."""

    fits = 0

    def setup_environment(self) -> None:
        super().setup_environment()
        type(self).fits += 1

    def optimizer_step(self, optimizer: Any, closure: Any) -> Any:
        return closure() if self.fits == 2 else super().optimizer_step(optimizer, closure)


class StaysBroken(SingleDeviceStrategy):
    """Remembers a failure for ever."""

    broken = False

    def on_exception(self, error: BaseException) -> None:
        type(self).broken = True

    def setup_environment(self) -> None:
        super().setup_environment()
        if self.broken:
            raise RuntimeError("the communicator was aborted")


def _subject(kind: str, devices: int = 1) -> Subject:
    path = (str(Path(__file__).parent),)
    return Subject(f"wrong_failure:{kind}", devices, accelerator="cpu", python_path=path)


MUTATIONS = {
    "a_rank_raises_in_setup": _subject("QuietBeforeTraining"),
    "a_rank_raises_in_a_step": _subject("QuietInSteps"),
    "a_rank_raises_in_validation": _subject("QuietInValidation"),
    "a_rank_is_killed": _subject("KnowsNoSignals", devices=2),
    "a_rank_runs_out_of_memory": _subject("GoesOnWithoutMemory"),
    "all_are_gone_in_time": _subject("LeavesAHelper"),
    "restores_the_environment": _subject("LeavesVariables"),
    "frees_its_ports": _subject("LeavesAPort"),
    "a_second_fit_works": _subject("TrainsOnce"),
    "a_fit_after_a_failure_works": _subject("StaysBroken"),
}
