"""The `torchrelay` command. A subcommand is a module of this folder that defines `add`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from torchrelay.errors import UserError

COMMANDS: Mapping[str, str] = {
    "list": "torchrelay.cli.list",
    "doctor": "torchrelay.cli.doctor",
    "explain": "torchrelay.cli.explain",
    "new-plugin": "torchrelay.cli.new_plugin",
    "conformance": "torchrelay.cli.conformance",
    "checkpoint": "torchrelay.cli.checkpoint",
    "plot": "torchrelay.cli.plot",
}
"""Subcommand -> its module, in the order of `torchrelay --help`; only that of the command asked for is imported."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; those of the process when None.

    Returns:
        the process's exit code: 2 for an error that is the user's to mend, which is printed as one
        line. Any other exception is a bug and keeps its traceback.
    """
    # Not `list(argv)`: once the submodule of that name is imported, it hides the builtin here.
    words = sys.argv[1:] if argv is None else [*argv]
    arguments = _parser(words).parse_args(words)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough, as in `torchrelay list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UserError as error:
        print(f"torchrelay: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command that `words` begin with; of all commands where they begin with none."""
    parser = argparse.ArgumentParser(
        prog="torchrelay",
        description="Hand a PyTorch model from one training backend to the next.",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print torchrelay's version and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    asked = [name for name in words[:1] if name in COMMANDS]
    for name in asked or COMMANDS:
        importlib.import_module(COMMANDS[name]).add(commands)
    return parser


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from torchrelay.plugin.scan import core_version

        print(f"torchrelay {core_version()}")
        parser.exit()
