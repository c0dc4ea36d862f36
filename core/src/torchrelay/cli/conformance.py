"""`torchrelay conformance`: examine a strategy by the conformance kit. Needs no pytest."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from torchrelay.cli.tables import Table, show

if TYPE_CHECKING:
    from torchrelay.testing.results import Report, Result


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "examine a strategy: does it do what every strategy has to, and what it declares"
    parser = commands.add_parser(
        "conformance", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    parser.add_argument(
        "strategy", metavar="ALIAS", help="alias, distribution:alias, or package.module:Class"
    )
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices to use (1)")
    parser.add_argument("--accelerator", default="auto", metavar="A", help="kind of device (auto)")
    parser.add_argument(
        "--reference",
        default="",
        metavar="A",
        help="kind of device of the one process that is compared with (the same)",
    )
    parser.add_argument("--num-nodes", type=int, default=1, metavar="N", help="machines (1)")
    parser.add_argument(
        "--family",
        action="append",
        metavar="F",
        help="make the checks of this family only; may be repeated",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="also write FILE.md and FILE.json"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Make the checks, print them, and write the report; 1 if a check failed.

    Raises:
        UserError: there is no such family.
    """
    from torchrelay.testing.families import FAMILIES, all_checks
    from torchrelay.testing.kit import Kit
    from torchrelay.testing.publishing import publish
    from torchrelay.testing.subject import Subject

    checks = all_checks(arguments.family or FAMILIES)
    subject = Subject(
        arguments.strategy,
        devices=arguments.devices,
        accelerator=arguments.accelerator,
        num_nodes=arguments.num_nodes,
        reference=arguments.reference,
    )
    kit = Kit(subject)
    try:
        report = kit.report(checks, _tell)
    finally:
        kit.close()
    if arguments.report is not None:
        publish(report, arguments.report)
    if arguments.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        _print(report)
    return 0 if report.conforms else 1


def _tell(result: Result) -> None:
    """Show on a terminal how far the kit is; it takes minutes."""
    if sys.stderr.isatty():
        check = result.check
        print(f"{check.family}.{check.name}: {result.status.value}", file=sys.stderr, flush=True)


def _print(report: Report) -> None:
    rows = [
        (result.check.family, result.check.name, result.status.value, _remark(result))
        for result in report.results
    ]
    show([Table(f"Conformance of {report.subject}", ("family", "check", "result", ""), rows)])
    for result in report.results:
        if "\n" in result.message:
            print(f"\n{result.message}")
    verdict = "conforms" if report.conforms else "does not conform"
    counts = ", ".join(f"{number} {name}" for name, number in report.counts.items() if number)
    print(f"\n{report.subject.strategy} {verdict}: {counts}")


def _remark(result: Result) -> str:
    """Why a check was skipped or refused; what failed is told in full below the table."""
    return "" if "\n" in result.message else " ".join(result.message.split())
