"""The documentation names what there is, and nothing else."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import get_type_hints

import pytest

from torchrelay.checkpoint import Checkpoint, make_manifest
from torchrelay.plugin import CONTRACT_VERSION, Capability
from torchrelay.strategies import (
    Needs,
    ParallelStrategy,
    Parts,
    Plan,
    SingleDeviceStrategy,
    Strategy,
)

DOCS = Path(__file__).parents[3] / "docs"
CONTRACT = (DOCS / "contract.md").read_text(encoding="utf-8")
MEMBERS, BACKENDS = (CONTRACT.partition("\n## Backends\n")[i] for i in (0, 2))


class Several(ParallelStrategy):
    default_collectives = SingleDeviceStrategy.default_collectives


def public(names):
    return {name for name in names if not name.startswith("_")}


def members() -> set[str]:
    """Methods, properties and class attributes, and what the constructor puts on an instance."""
    return public(dir(ParallelStrategy)) | public(vars(Several()))


def first_columns(text: str) -> list[str]:
    """What stands in backticks in the first column of each table."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def documented() -> dict[str, str]:
    """Member -> as it stands in the tables of members, until those of the plan begin."""
    rows = first_columns(MEMBERS.partition("\n## The plan\n")[0])
    return {row.partition("(")[0]: row for row in rows}


def test_every_member_has_a_row():
    assert public(dir(Strategy)) <= members()
    assert sorted(members() - set(documented())) == []


def test_every_row_is_a_member():
    known = members() | {"ParallelStrategy"}
    assert sorted(set(documented()) - known) == []


@pytest.mark.parametrize("row", [row for row in documented().values() if "(" in row])
def test_a_method_is_shown_with_its_parameters(row):
    name, _, parameters = row.rstrip(")").partition("(")
    method = inspect.signature(getattr(ParallelStrategy, name))
    shown = [parameter for parameter in parameters.split(", ") if parameter]
    assert shown == [name for name in method.parameters if name != "self"]


def test_a_method_is_not_shown_as_an_attribute():
    bare = [
        name for name, row in documented().items() if "(" not in row and name != "ParallelStrategy"
    ]
    assert [
        name for name in bare if inspect.isfunction(getattr(ParallelStrategy, name, None))
    ] == []


def test_backends_override_what_there_is():
    assert sorted(set(first_columns(BACKENDS)) - members()) == []


def test_backends_are_all_there():
    wanted = ["DDP", "DP", "DeepSpeed", "IPU", "XLA", "Horovod", "HPU", "OSS", "FSDP", "Bagua"]
    titles = " ".join(re.findall(r"^### (.*)$", BACKENDS, re.MULTILINE)).split()
    assert [name for name in wanted if name not in titles] == []


@pytest.mark.parametrize("kind", [Plan, Needs, Parts])
def test_the_fields_are_named(kind):
    for field in dataclasses.fields(kind):
        plain = field.name.replace("_", " ").replace("num nodes", "number of machines")
        assert f"`{field.name}`" in CONTRACT or plain in CONTRACT, field.name


def test_only_capabilities_that_there_are():
    written = set(re.findall(r"`([A-Z][A-Z_]+)`", CONTRACT)) - {
        "CONTRACT_VERSION",
        "OLDEST_CONTRACT_VERSION",
    }
    assert written <= set(Capability.__members__)


def test_the_version():
    assert CONTRACT.startswith(f"# The Strategy contract, version {CONTRACT_VERSION}\n")
    assert f"This is version {CONTRACT_VERSION}," in CONTRACT


def test_the_checkpoint_format_names_every_key():
    text = (DOCS / "checkpoint-format.md").read_text(encoding="utf-8")
    keys = {*get_type_hints(Checkpoint), *make_manifest(strategy="any")}
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
