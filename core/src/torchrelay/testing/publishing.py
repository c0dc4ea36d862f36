"""A report as files that can be published: Markdown for people, JSON for machines."""

from __future__ import annotations

import json
from pathlib import Path

from torchrelay.testing.results import Report, Result, Status


def publish(report: Report, path: Path) -> tuple[Path, Path]:
    """Write both files, beside one another.

    Args:
        report: what was found.
        path: their path, with either suffix or none.

    Returns:
        the paths of the Markdown and the JSON.
    """
    text, data = path.with_suffix(".md"), path.with_suffix(".json")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(markdown(report), encoding="utf-8")
    data.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    return text, data


def markdown(report: Report) -> str:
    """The report as Markdown: the verdict, the versions, a table of all checks, and each failure in full."""
    verdict = "conforms" if report.conforms else "does not conform"
    counts = ", ".join(f"{number} {name}" for name, number in report.counts.items() if number)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"# Conformance of {report.subject.strategy}",
        "",
        f"`{report.subject}` **{verdict}**: {counts}, in {report.seconds:.0f} s.",
        "",
        f"With {versions}.",
        "",
        "| family | check | tier | result |",
        "|---|---|---|---|",
        *(_row(result) for result in report.results),
    ]
    for result in report.results:
        if result.status in (Status.FAILED, Status.WARNED):
            lines += ["", f"## {result.check.family}.{result.check.name}", "", result.check.why]
            lines += ["", "```text", result.detail, "```", "", f"To change: {result.check.advice}."]
    return "\n".join(lines) + "\n"


def _row(result: Result) -> str:
    shown = result.status.value
    if result.status in (Status.SKIPPED, Status.REFUSED):
        shown += f": {result.detail}"
    cells = (result.check.family, result.check.name, result.check.tier, shown)
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
