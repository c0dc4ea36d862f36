"""Programs for the tests of the runner."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def leave(context: Any) -> None:
    context.leave("number", 0, 7)


def tell(context: Any, variable: str) -> None:
    context.leave("variable", 0, os.environ.get(variable))


def hang(context: Any) -> None:
    time.sleep(60)


def fail(context: Any) -> None:
    raise KeyError("this one")


def litter(context: Any) -> None:
    Path("litter").touch()
    for own in (False, True):
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=own
        )
