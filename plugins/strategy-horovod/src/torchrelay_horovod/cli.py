"""The command `torchrelay-horovod`: builds Horovod, and runs it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from torchrelay.errors import TorchrelayError
from torchrelay_horovod import build


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        the process's exit code.
    """
    words = [*(sys.argv[1:] if argv is None else argv)]
    try:
        if words[:1] == ["run"]:
            from torchrelay_horovod.run import run

            run(words[1:])
            return 0
        return _build(_parser().parse_args(words))
    except TorchrelayError as error:
        sys.stderr.write(f"torchrelay-horovod: error: {' '.join(str(error).split())}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchrelay-horovod", description="Horovod for torchrelay: build it, run it."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    make = commands.add_parser(
        "build", help="build Horovod for the torch that is installed here, and install it"
    )
    make.add_argument(
        "--wheels",
        type=Path,
        default=build.default_folder(),
        help=f"folder in which wheels are kept (default: {build.WHEELS}, else the user's cache)",
    )
    make.add_argument(
        "--jobs",
        type=int,
        default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2,
        help="compilers at a time",
    )
    make.add_argument("--show", action="store_true", help="print the commands, and do nothing")
    commands.add_parser(
        "run", help="horovodrun, with what elastic jobs on one machine lack; takes its arguments"
    )
    return parser


def _build(asked: argparse.Namespace) -> int:
    if asked.show:
        sys.stdout.write(f"{build.recipe()}\n")
    else:
        build.build(asked.wheels, asked.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
