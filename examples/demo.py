"""Run digits.py under three strategies and show the results in one table.

python examples/demo.py [arguments of digits.py]

Exits with 1 unless every strategy classifies at least 97 % of the held-out digits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUNS = (("ddp", "2"), ("ddp_spawn", "2"), ("single_device", "1"))
REACH = 0.97


def main() -> int:
    """Run the script for each strategy; the exit status."""
    script = Path(__file__).with_name("digits.py")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.jsonl")
        for strategy, devices in RUNS:
            chosen = ["--strategy", strategy, "--devices", devices, "--accelerator", "cpu"]
            places = ["--out", str(Path(folder, strategy)), "--results", str(results)]
            command = [sys.executable, str(script), *chosen, *places, *sys.argv[1:]]
            print(f"$ python examples/digits.py {' '.join(chosen)}", flush=True)
            status = subprocess.run(command, check=False).returncode
            if status:
                return status
        rows = [json.loads(line) for line in results.read_text().splitlines()]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=110).print(table)
    return 0 if all(row["test accuracy"] >= REACH for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
