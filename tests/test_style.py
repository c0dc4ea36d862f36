"""What the repository's files may not hold: traces of the machine that they were written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACES = {
    "an absolute path of somebody's machine": r"(?<![\w.})*-])/(?:work|root|home/\w+)/\w",
    "a registry's host, which is the installer's business": r"\b(?:pypi|pythonhosted)\.org\b",
    "a number that only one tracker knows": r"\b[Ii]ssue #?\d",
}


def files_of_the_repository() -> list[Path]:
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file()]


def traces(pattern: str, text: str) -> list[str]:
    return [line for line in text.splitlines() if re.search(pattern, line)]


@pytest.mark.parametrize("trace", TRACES)
def test_no_file_holds(trace: str) -> None:
    files = files_of_the_repository()
    assert ROOT / "tox.ini" in files
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in traces(TRACES[trace], path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found, "\n".join([trace, *found])


@pytest.mark.parametrize(
    ("trace", "words"),
    # In parts, so that this file holds none of them.
    [
        *zip(
            TRACES,
            [("cd ", "root", "x"), ("files", "pythonhosted", "org"), ("issue", "12")],
            strict=True,
        )
    ],
)
def test_a_trace_is_recognised(trace: str, words: tuple[str, ...]) -> None:
    joined = [glue.join(words) for glue in "/. "]
    assert len([line for line in joined if traces(TRACES[trace], line)]) == 1


def test_each_distribution_carries_the_license() -> None:
    license_text = (ROOT / "LICENSE").read_bytes()
    projects = [path.parent for path in ROOT.glob("*/pyproject.toml")]
    projects += [path.parent for path in ROOT.glob("plugins/*/pyproject.toml")]
    assert ROOT / "core" in projects
    assert [p.name for p in projects if (p / "LICENSE").read_bytes() != license_text] == []


def test_the_documentation_lists_what_starts_interpreters() -> None:
    marked = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob("plugins/*/tests/test_*.py")
        if "pytest.mark.real_interpreters" in path.read_text("utf-8")
    }
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    listed = re.findall(r"^\| `(plugins/\S+)` \|", page, re.MULTILINE)
    assert sorted(marked) == listed
