"""Test equipment: installs `cpu_replicas`, and sets a variable that it needs, in every process with this folder in its
path, once torch-xla is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

EQUIPMENT = Path(__file__).parents[1] / "cpu_replicas.py"


class Finder(importlib.abc.MetaPathFinder):
    """Finds torch-xla, and lets it be equipped when it has been loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """The spec that others find, whose loader equips the module."""
        if name != "torch_xla":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_equip(module: Any) -> None:
                load(module)
                equipment = importlib.util.spec_from_file_location("cpu_replicas", EQUIPMENT)
                tools = importlib.util.module_from_spec(equipment)
                equipment.loader.exec_module(tools)
                tools.install()

            spec.loader.exec_module = load_and_equip
        return spec


os.environ["XLA_ENABLE_PARAM_ALIASING"] = "0"
sys.meta_path.insert(0, Finder())
