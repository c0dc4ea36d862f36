"""`torchrelay checkpoint inspect` and `torchrelay checkpoint convert`. Neither runs what a file contains."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torchrelay.cli.tables import Table, show

if TYPE_CHECKING:
    from torchrelay.checkpoint.inspection import Facts

FORMS = ("canonical", "weights", "safetensors")
"""Those of `checkpoint.conversion`, which imports torch."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "look into a checkpoint, or convert one"
    parser = commands.add_parser(
        "checkpoint", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    kinds = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_inspect(kinds)
    _add_convert(kinds)


def _add_inspect(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show what a checkpoint holds and who wrote it; nothing in it is executed"
    parser = kinds.add_parser("inspect", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "file", metavar="FILE", help="a path or URL; of a folder the files are listed"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_inspect)


def _add_convert(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write a checkpoint of Lightning 2.x, or of an earlier torchrelay, in another form"
    parser = kinds.add_parser("convert", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("source", metavar="SRC", help="the checkpoint")
    parser.add_argument("target", metavar="DST", help="the new file; none is overwritten")
    parser.add_argument(
        "--to",
        choices=FORMS,
        default="canonical",
        help="canonical: torchrelay's present form; weights: model and hyper-parameters alone, also of a file that "
        "carries code; safetensors: the model alone (default: canonical)",
    )
    parser.set_defaults(run=run_convert)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print the tables, or the JSON."""
    from torchrelay.checkpoint.inspection import inspect

    facts = inspect(arguments.file)
    if arguments.json:
        print(json.dumps(asdict(facts), indent=2, default=str))
    else:
        show(tables(facts))
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Convert, and print where the new file is."""
    from torchrelay.checkpoint.conversion import convert

    convert(arguments.source, arguments.target, arguments.to)
    print(f"wrote {arguments.target}")
    return 0


def tables(facts: Facts) -> list[Table]:
    """What is known of a checkpoint, for people."""
    return [
        Table("Checkpoint", ("what", "value"), _summary(facts)),
        Table(
            "Model",
            ("tensor", "shape", "type", "size"),
            [
                (each.name, _shape(each.shape), each.dtype, size(each.size))
                for each in facts.tensors
            ],
        ),
        Table(
            "Optimizers",
            ("groups", "parameters are", "keeps", "size", "options"),
            [
                (
                    ", ".join(map(str, each.groups)),
                    "named" if each.by_name else "numbered",
                    ", ".join(each.kept) or "nothing",
                    size(each.size),
                    _pairs(each.options),
                )
                for each in facts.optimizers
            ],
        ),
        Table("Callbacks", ("callback", "state"), list(facts.callbacks.items())),
        Table("Hyper-parameters", ("name", "value"), list(facts.hyper_parameters.items())),
        Table("Other", ("key", "value"), list(facts.other.items())),
        Table("Code that it needs", ("class or function",), [(name,) for name in facts.code]),
        Table("Files", ("file", "size"), [(n, size(number)) for n, number in facts.files.items()]),
    ]


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _summary(facts: Facts) -> list[tuple[str, str]]:
    rows = {"file": facts.path, "kind": facts.kind, "size": size(facts.size)}
    rows |= {key: str(value) for key, value in facts.manifest.items() if value is not None}
    rows |= {key: str(value) for key, value in facts.progress.items()}
    if facts.tensors:
        elements = sum(_elements(each.shape) for each in facts.tensors)
        total = size(sum(each.size for each in facts.tensors))
        rows["model"] = f"{len(facts.tensors)} tensors, {elements:,} numbers, {total}"
    return list(rows.items())


def _elements(shape: tuple[int, ...]) -> int:
    number = 1
    for length in shape:
        number *= length
    return number


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
