"""Strategies that leave nothing behind, but for one thing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from torch.distributed import HashStore

from torchrelay.strategies import SingleDeviceStrategy
from torchrelay.testing import Subject


class LeavesAGroup(SingleDeviceStrategy):
    """Makes a process group and keeps it."""

    def setup_environment(self) -> None:
        super().setup_environment()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)


class LeavesThreads(SingleDeviceStrategy):
    """Starts a thread in each run."""

    def setup_environment(self) -> None:
        super().setup_environment()
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class LeavesFilesOpen(SingleDeviceStrategy):
    """Opens a file in each run."""

    def setup_environment(self) -> None:
        super().setup_environment()
        os.open(os.devnull, os.O_RDONLY)


class LeavesFiles(SingleDeviceStrategy):
    """Makes a temporary folder and keeps it."""

    def setup_environment(self) -> None:
        super().setup_environment()
        tempfile.mkdtemp()


class LeavesAProcess(SingleDeviceStrategy):
    """Starts a helper and forgets it."""

    def setup_environment(self) -> None:
        super().setup_environment()
        self.helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


class LeavesHooks(SingleDeviceStrategy):
    """Its hooks stay on the parameters."""

    def wrap(self) -> None:
        for parameter in self.module.parameters():
            parameter.register_hook(lambda gradient: gradient * 2)


def _subject(kind: str) -> Subject:
    path = (str(Path(__file__).parent),)
    return Subject(f"wrong_teardown:{kind}", accelerator="cpu", python_path=path)


MUTATIONS = {
    "no_process_group_is_left": _subject("LeavesAGroup"),
    "no_thread_is_left": _subject("LeavesThreads"),
    "no_file_descriptor_is_left": _subject("LeavesFilesOpen"),
    "no_temporary_file_is_left": _subject("LeavesFiles"),
    "no_process_is_left": _subject("LeavesAProcess"),
    "the_module_is_usable": _subject("LeavesHooks"),
}
