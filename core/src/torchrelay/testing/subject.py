"""Subject: the strategy that the kit examines, and the run it is examined in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Subject:
    """What is examined; may travel as JSON to the processes that examine it.

    Args:
        strategy: an alias, `"distribution:alias"`, or `"package.module:Class"`.
        devices: devices to run on.
        accelerator: the kind of device.
        num_nodes: machines.
        presets: arguments of the class's constructor; an alias brings its own.
        trainer: further arguments of every Trainer that the kit makes.
        python_path: folders to import from, before all others.
        variables: the environment of its processes has these besides.
        reference: the kind of device that `single_device`, which it is compared with, runs on; its own when empty.
    """

    strategy: str
    devices: int = 1
    accelerator: str = "auto"
    num_nodes: int = 1
    presets: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)
    python_path: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""

    @property
    def is_class(self) -> bool:
        """Whether the strategy is named by its class; an alias is lower case."""
        return self.strategy.rpartition(":")[2][:1].isupper()

    def alone(self) -> Subject:
        """The same run in one process, which every strategy must equal."""
        kind = self.reference or self.accelerator
        return replace(
            self, strategy="single_device", accelerator=kind, devices=1, num_nodes=1, presets={}
        )

    def to_json(self) -> str:
        """The subject as one line of text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Subject:
        """The subject of a line that `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "python_path": tuple(fields["python_path"])})

    def __str__(self) -> str:
        nodes = f" x {self.num_nodes} machines" if self.num_nodes > 1 else ""
        beside = {**self.variables, **({"reference": self.reference} if self.reference else {})}
        more = "".join(f", {name}={value}" for name, value in beside.items())
        return f"{self.strategy} ({self.accelerator}, devices={self.devices}{nodes}{more})"
