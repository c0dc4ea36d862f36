"""Runs one program of the kit: `python -m torchrelay.testing.program TARGET ARGUMENTS SUBJECT FOLDER TIMEOUT`.

Strategies that start processes by running the script again run this again.
"""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from torchrelay.plugin.targets import load_target
from torchrelay.testing.context import Context
from torchrelay.testing.subject import Subject

STACKS_BEFORE_END = 3.0
"""Seconds before its end at which a program that hangs shows where."""


def main(argv: Sequence[str]) -> None:
    """Run the program, and leave behind what it ends by."""
    target, arguments, subject, folder, timeout = argv
    context = Context(Subject.from_json(subject), Path(folder))
    faulthandler.dump_traceback_later(max(float(timeout) - STACKS_BEFORE_END, 1.0))
    try:
        load_target(target)(context, **json.loads(arguments))
    except BaseException as error:
        context.leave_error(error)
        raise


if __name__ == "__main__":
    main(sys.argv[1:])
