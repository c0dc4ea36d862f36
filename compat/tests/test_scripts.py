"""Scripts in the style of Lightning's documentation, run as they are and with the import changed."""

from __future__ import annotations

import csv
import math
import re
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPTS = sorted(Path(__file__).with_name("scripts").glob("*.py"))
OPTIONS = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

CHANGES = (
    (r"\blightning\.pytorch\b", "torchrelay"),
    (r"\bimport lightning as L\b", "import torchrelay as L"),
)
"""What a user changes."""

DELIBERATE = {
    (
        "autoencoder",
        "/logged",
    ): "logged_metrics are those that loggers received, of the steps that were logged",
    ("datamodule", "/at/"): "a row's step is the number of updates made; Lightning's is one less",
    ("datamodule", "/metrics/lr-SGD"): "the rates of a LearningRateMonitor go to loggers alone",
}
"""Script and what differs in its report -> why."""


def changed(text: str) -> str:
    for old, new in CHANGES:
        text = re.sub(old, new, text)
    assert "lightning" not in re.sub(r"Lightning|lightning_", "", text)
    return text


def run(text: str, name: str, folder: Path) -> dict[str, Any]:
    """What a script puts into REPORT."""
    folder.mkdir()
    report: dict[str, Any] = {}
    helpers = {
        "FOLDER": str(folder),
        "OPTIONS": {**OPTIONS, "default_root_dir": folder},
        "REPORT": report,
        "FILES": lambda path: sorted(each.name for each in (folder / path).iterdir()),
        "ROWS": lambda path, column: rows(folder / path, column),
        "__name__": "__main__",
    }
    code = compile(text, name, "exec", dont_inherit=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true")
        exec(code, helpers)
    return report


def rows(path: Path, column: str) -> list[dict[str, float]]:
    """The rows of a CSV log that have a column."""
    with path.open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row[column]]
    return [{name: float(value) for name, value in row.items() if value} for row in found]


def same(one: Any, other: Any, at: str = "") -> list[str]:
    """Where two reports differ: tensors to the bit, numbers but for what a sum in 64 bits saves."""
    if isinstance(one, dict):
        keys = {*one} ^ {*other}
        inside = [same(one[key], other[key], f"{at}/{key}") for key in one if key in other]
        return [*(f"{at}/{key} is only in one" for key in sorted(keys)), *chain(*inside)]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f"{at}: {len(one)} and {len(other)}"]
        pairs = enumerate(zip(one, other, strict=True))
        return [*chain(*(same(a, b, f"{at}/{i}") for i, (a, b) in pairs))]
    if isinstance(one, torch.Tensor) and one.dim():
        return [] if torch.equal(one, other) else [f"{at}: by {(one - other).abs().max()}"]
    if isinstance(one, (float, torch.Tensor)):
        close = math.isclose(float(one), float(other), rel_tol=1e-6, abs_tol=1e-9)
        return [] if close else [f"{at}: {float(one)} and {float(other)}"]
    return [] if one == other else [f"{at}: {one!r} and {other!r}"]


@pytest.mark.timeout(100)
@pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_does_the_same_with_the_import_changed(script, tmp_path, libraries):
    text = script.read_text(encoding="utf-8")
    before = run(text, f"{script.stem} of Lightning", tmp_path / "lightning")
    after = run(changed(text), f"{script.stem} of torchrelay", tmp_path / "torchrelay")
    assert "weights" in after
    differing = same(before, after)
    for name, at in DELIBERATE:
        if name == script.stem:
            assert any(each.startswith(at) for each in differing), f"strike {at} from DELIBERATE"
            differing = [each for each in differing if not each.startswith(at)]
    assert not differing, "\n".join(differing)
