"""A plugin of pytest for `tox run -e quick`: a test that would start a process is skipped instead.

    pytest -p no_processes ...

The start is refused by an audit hook (https://docs.python.org/3/library/audit_events.html), wherever it is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

STARTS = frozenset(("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"))

refused: set[str] = set()
"""The tests that have asked for a process."""


class StartRefusedError(Exception):
    """What a test gets that starts a process."""


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to start a process while a test runs, and keep in mind which one it was."""
    test = os.environ.get("PYTEST_CURRENT_TEST")
    if event in STARTS and test is not None:
        refused.add(test.rpartition(" ")[0])
        raise StartRefusedError(event)


def pytest_configure(config: pytest.Config) -> None:
    """Start listening, and let pass what the refused tests leave behind unfinished."""
    for category in (
        "ResourceWarning",
        "pytest.PytestUnraisableExceptionWarning",
        "pytest.PytestUnhandledThreadExceptionWarning",
    ):
        config.addinivalue_line("filterwarnings", f"ignore::{category}")
    sys.addaudithook(refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Skip a test that was refused a process, by itself or by a fixture of its, whatever it made of that."""
    report = yield
    by_fixture = call.excinfo is not None and call.excinfo.errisinstance(StartRefusedError)
    if (by_fixture or item.nodeid in refused) and report.when != "teardown":
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, "Skipped: starts a process")
    return report
