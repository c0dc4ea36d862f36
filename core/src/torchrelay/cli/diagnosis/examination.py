"""Imports what plugins offer and runs their checks, in a process of its own.

A vendor's SDK may print, hang, or end the process while it is imported; the doctor reports that and goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torchrelay.plugin.records import cause_of
from torchrelay.plugin.targets import load_target

PATIENCE = 180.0
"""Seconds after which an examination is given up. Importing torch from a cold disk may take a minute."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from torchrelay.cli.diagnosis.examination import main; main()"
)


@dataclass(frozen=True)
class Item:
    """One thing to look at.

    Attributes:
        kind: whether the target is to be imported, or imported and called.
        target: `"package.module:Attribute"`.
    """

    kind: Literal["import", "check"]
    target: str


def examine(items: Sequence[Item], patience: float = PATIENCE) -> list[str]:
    """What is wrong with each item, in one line; "" where nothing is.

    Args:
        items: what to look at, in this order. An item that ends or stops the process leaves those after it
            unexamined, which is said of them.
        patience: seconds to wait for all of them.
    """
    if not items:
        return []
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path)]
    end = f"did not come to an end in {patience:g} s"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        wanted = json.dumps([asdict(item) for item in items]).encode()
        try:
            out, _ = child.communicate(wanted, timeout=patience)
            end = _ending(child.returncode)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
    # A line that was cut off where the process ended is no answer.
    found = [str(json.loads(line)) for line in out.split(b"\n")[:-1]]
    after = f"not examined: {items[len(found)].target} {end}" if len(found) < len(items) else ""
    rest = [f"{item.target} {end}" for item in items[len(found) : len(found) + 1]]
    return [*found, *rest, *[after] * (len(items) - len(found) - 1)]


def main() -> None:
    """Examine the items of the standard input, and answer each with a line of JSON on the standard output.

    Whatever the examined code prints goes to the standard error stream.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for item in json.load(sys.stdin):
        answers.write(json.dumps(_complaint(Item(**item))) + "\n")
        answers.flush()


def _complaint(item: Item) -> str:
    try:
        found = load_target(item.target)
        answer = found() if item.kind == "check" else None
    except (Exception, SystemExit) as error:  # noqa: BLE001  it is what the doctor is asked for
        return cause_of(error)
    if answer is None:
        return ""
    return " ".join(answer.split()) if isinstance(answer, str) else f"returned {answer!r}, no text"


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended the process (exit code {code})"
    try:
        return f"ended the process ({signal.Signals(-code).name})"
    except ValueError:  # a number that Python has no name for
        return f"ended the process (signal {-code})"
