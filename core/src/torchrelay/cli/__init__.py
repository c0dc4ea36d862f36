"""The `torchrelay` command. A subcommand is a module of this folder that defines `add`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from torchrelay.cli import list as list_command
from torchrelay.cli import plot
from torchrelay.errors import UserError
from torchrelay.plugin.scan import core_version

COMMANDS = (list_command, plot)
"""The modules of the subcommands, in the order in which `torchrelay --help` shows them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        the process's exit code: 2 for an error that is the user's to mend, which is printed as one
        line. Any other exception is a bug and keeps its traceback.
    """
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.run(arguments)
    except UserError as error:
        print(f"torchrelay: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchrelay",
        description="Hand a PyTorch model from one training backend to the next.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print torchrelay's version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"torchrelay {core_version()}")
        parser.exit()
