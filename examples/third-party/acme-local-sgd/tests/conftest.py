"""Runs the program of `scripts/` as a user would, and reads what its ranks left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent / "scripts" / "train.py"
Train = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train with arguments of the Trainer; what each rank left."""

    def run(*, ranks: int = 2, **arguments: Any) -> list[dict[str, Any]]:
        for path in tmp_path.glob("rank-*.json"):
            path.unlink()
        asked = {"devices": ranks, "accelerator": "cpu", **arguments}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(SCRIPT), json.dumps(asked)],
            env={**os.environ, "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(ranks)]

    return run
