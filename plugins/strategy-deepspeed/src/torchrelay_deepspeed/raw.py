"""DeepSpeed's own configuration as nested mappings, and where it comes from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

AUTO = "auto"
"""What people write for "whoever reads this may choose"; to DeepSpeed itself it is as good as nothing."""


@dataclass(frozen=True)
class RawConfig:
    """DeepSpeed's own configuration.

    Attributes:
        values: what `deepspeed.initialize` would take, with nothing filled in yet.
        where: where it was written, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def get(self, path: str) -> Any:
        """The value at a dotted path; None where there is none, or `"auto"`."""
        found: Any = self.values
        for key in path.split("."):
            found = found.get(key) if isinstance(found, Mapping) else None
        return None if found == AUTO else found

    def says(self, path: str) -> str:
        """`"PATH": VALUE in WHERE`."""
        return f'"{path}": {self.get(path)!r} in {self.where}'

    @property
    def stage(self) -> int:
        """The ZeRO stage; 0, as DeepSpeed has it, where none is written."""
        return int(self.get("zero_optimization.stage") or 0)

    def offload(self, what: Literal["optimizer", "param"]) -> Mapping[str, Any]:
        """How the optimizer's state, or the parameters, are offloaded; empty if they are not."""
        found: Mapping[str, Any] = self.get(f"zero_optimization.offload_{what}") or {}
        return found if found.get("device") in ("cpu", "nvme") else {}

    @property
    def on_nvme(self) -> bool:
        """Whether anything is offloaded to NVMe."""
        return any(self.offload(what).get("device") == "nvme" for what in ("optimizer", "param"))

    @property
    def optimizer(self) -> str | None:
        """Name of the optimizer that DeepSpeed is to make."""
        found: str | None = self.get("optimizer.type")
        return found

    @property
    def scheduler(self) -> str | None:
        """Name of the learning rate scheduler that DeepSpeed is to make."""
        found: str | None = self.get("scheduler.type")
        return found


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; `over` wins."""
    result = plain(base)
    for key, value in over.items():
        inner = result.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            result[key] = merged(inner, value)
        else:
            result[key] = _plain(value)
    return result


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as dicts and lists, which is what DeepSpeed looks for."""
    return {key: _plain(value) for key, value in values.items()}


def without_auto(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what is left to whoever reads it: DeepSpeed takes its default then."""
    return {
        key: without_auto(value) if isinstance(value, Mapping) else _plain(value)
        for key, value in values.items()
        if value != AUTO
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return plain(value)
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
