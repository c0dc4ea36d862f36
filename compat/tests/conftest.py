"""Lightning and torchrelay side by side; every test here needs both."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "max_epochs": 2,
}


@pytest.fixture(scope="session")
def recording() -> ModuleType:
    """The module `recording.py`."""
    file = Path(__file__).with_name("recording.py")
    spec = importlib.util.spec_from_file_location("recording", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def libraries() -> dict[str, Any]:
    """What a script imports, of either library."""
    import lightning.pytorch
    import lightning.pytorch.callbacks

    import torchrelay
    import torchrelay.callbacks
    import torchrelay.loggers

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return {"lightning": lightning.pytorch, "torchrelay": torchrelay}


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Any]:
    """Makes Trainers of a library that are silent and keep nothing unless told otherwise."""

    def make(library: Any, **options: Any) -> Any:
        return library.Trainer(**{**QUIET, "default_root_dir": tmp_path, **options})

    return make
