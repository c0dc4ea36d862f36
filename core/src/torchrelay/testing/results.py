"""What the kit found: one result a check, and the report of all."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchrelay.testing.checks import Check
from torchrelay.testing.subject import Subject


class Status(enum.Enum):
    """What became of a check."""

    PASSED = "passed"
    REFUSED = "refused as declared"
    SKIPPED = "skipped"
    WARNED = "warned"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """What became of one check.

    Args:
        check: the check.
        status: what became of it.
        detail: what was seen, or why it was skipped; "" where there is nothing to say.
        seconds: how long it took, with the programs that it was the first to need.
    """

    check: Check
    status: Status
    detail: str = ""
    seconds: float = 0.0

    @property
    def message(self) -> str:
        """Why it matters, what was seen, and what to change."""
        check = self.check
        if self.status not in (Status.FAILED, Status.WARNED):
            return self.detail
        new = f" (new in {check.since}: a warning until the next release)"
        return (
            f"{check.family}.{check.name}{new if self.status is Status.WARNED else ''}: {check.why}\n"
            f"Seen: {self.detail}\nTo change: {check.advice}"
        )


@dataclass(frozen=True)
class Report:
    """All results for a subject.

    Args:
        subject: what was examined.
        results: one a check.
        versions: distribution -> version, of torchrelay, torch and the plugins.
        seconds: how long it took.
    """

    subject: Subject
    results: Sequence[Result]
    versions: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def conforms(self) -> bool:
        """Whether nothing failed."""
        return not any(result.status is Status.FAILED for result in self.results)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks came to each status."""
        return {s.value: sum(r.status is s for r in self.results) for s in Status}

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON's types."""
        return {
            "subject": {
                "strategy": self.subject.strategy,
                "accelerator": self.subject.accelerator,
                "devices": self.subject.devices,
                "num_nodes": self.subject.num_nodes,
            },
            "conforms": self.conforms,
            "counts": self.counts,
            "versions": dict(self.versions),
            "seconds": round(self.seconds, 1),
            "checks": [
                {
                    "family": result.check.family,
                    "name": result.check.name,
                    "tier": result.check.tier,
                    "since": result.check.since,
                    "status": result.status.value,
                    "detail": result.message,
                    "seconds": round(result.seconds, 2),
                }
                for result in self.results
            ],
        }
