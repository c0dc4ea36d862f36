"""What torchrelay costs before anything is trained: its import, its command, its look-up of an alias."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from measure import run

OTHER_DISTRIBUTIONS = 500

IMPORT = """
import json, sys, time
before = set(sys.modules)
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""

# Both have imported what they need, so that the search alone is compared.
SCAN = """
import time
import importlib_metadata, torchrelay.plugin.registry
start = time.perf_counter()
importlib_metadata.entry_points()
print(time.perf_counter() - start)
"""
LOOKUP = """
import time
import importlib_metadata, torchrelay.plugin.registry
start = time.perf_counter()
torchrelay.plugin.registry.get_registry().strategy("ddp", "cpu")
print(time.perf_counter() - start)
"""

LIST = """
import sys
from torchrelay.cli import main
code = main(["list"])
sys.exit(code or ("torch" in sys.modules) * 99)
"""


def measure_startup(repeats: int) -> dict[str, Any]:
    """Medians, in seconds, and the modules that `import torchrelay` brings."""
    return {
        "import_seconds": import_seconds(repeats),
        "imported_by_torchrelay": modules_of("torchrelay"),
        "list_seconds": list_seconds(repeats),
        "lookup_seconds": lookup_seconds(repeats),
    }


def import_seconds(repeats: int) -> dict[str, float]:
    """The time of an import, by package; in fresh processes."""
    packages = ("torch", "torchrelay", "lightning", "accelerate")
    times: dict[str, list[float]] = {package: [] for package in packages}
    for package in packages:
        modules_of(package)
    for _ in range(repeats):
        for package in packages:
            times[package].append(_import(package)[0])
    return {package: median(found) for package, found in times.items()}


def modules_of(package: str) -> list[str]:
    """The modules outside the standard library that an import brings, at the top level and within the package."""
    names: list[str] = _import(package)[1]
    return sorted(n for n in names if n.partition(".")[0] not in sys.stdlib_module_names)


def _import(package: str) -> Any:
    return json.loads(run([sys.executable, "-c", IMPORT.format(module=package)]))


def list_seconds(repeats: int) -> float:
    """The time of the whole command `torchrelay list`.

    Raises:
        MeasurementError: it fails, or it imports torch.
    """
    run([sys.executable, "-c", LIST])
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run([sys.executable, "-m", "torchrelay.cli", "list"])
        times.append(time.perf_counter() - start)
    return median(times)


def lookup_seconds(repeats: int) -> dict[str, float]:
    """The time of a bare scan of all entry points, and of an alias's look-up, among many distributions."""
    programs = {"scan": SCAN, "lookup": LOOKUP}
    times: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        make_distributions(Path(folder), OTHER_DISTRIBUTIONS)
        for _ in range(repeats):
            for name, program in programs.items():
                printed = run([sys.executable, "-c", program], PYTHONPATH=folder)
                times[name].append(float(printed))
    return {name: median(found) for name, found in times.items()}


def make_distributions(folder: Path, number: int) -> None:
    """Install distributions that have metadata only; a third of them have entry points of other groups."""
    for index in range(number):
        information = folder / f"other_{index}-1.0.dist-info"
        information.mkdir()
        header = f"Metadata-Version: 2.1\nName: other-{index}\nVersion: 1.0\n"
        (information / "METADATA").write_text(header + "\n" + "What it is good for.\n" * 100)
        (information / "RECORD").write_text(f"other_{index}/__init__.py,,\n" * 20)
        if index % 3 == 0:
            entry_points = f"[console_scripts]\nother-{index} = other_{index}:main\n"
            (information / "entry_points.txt").write_text(entry_points)
