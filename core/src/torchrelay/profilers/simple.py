"""SimpleProfiler: how long each action takes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError
from torchrelay.profilers.profiler import Profiler


@dataclass
class Tally:
    """How often an action was done, and how long that took altogether (s)."""

    calls: int = 0
    seconds: float = 0.0


class SimpleProfiler(Profiler):
    """Measures the wall-clock time of each action, in the process that runs it.

    An action holds the time of those inside it. A device that computes on its own may still be at work when an
    action ends; its time shows where the process waits for it.

    Args:
        dirpath: folder of the report; the run's own when None.
        filename: name of the report, which is printed when both are None.
        extended: also the number of calls and the part of the whole time.
    """

    @answering
    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        extended: bool = True,
    ) -> None:
        super().__init__(dirpath, filename)
        if not isinstance(extended, bool):
            raise ConfigurationError(f"extended={extended!r} must be True or False")
        self.extended = extended
        self.recorded: dict[str, Tally] = {}
        self._started: dict[str, float] = {}
        self._since = time.perf_counter()

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin a run with empty records."""
        super().setup(stage, local_rank, log_dir)
        self.recorded.clear()
        self._since = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Note the time.

        Raises:
            ConfigurationError: the action is under way already.
        """
        if action_name in self._started:
            raise ConfigurationError(
                f"profiler.start({action_name!r}): this action is under way already; stop it first, or give the "
                "inner one another name"
            )
        self._started[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Add the time since the start.

        Raises:
            ConfigurationError: the action was not started.
        """
        now = time.perf_counter()
        started = self._started.pop(action_name, None)
        if started is None:
            raise ConfigurationError(
                f"profiler.stop({action_name!r}): this action was not started; call start first, or use "
                f"`with profiler.profile({action_name!r}):`"
            )
        tally = self.recorded.setdefault(action_name, Tally())
        tally.calls += 1
        tally.seconds += now - started

    def summary(self) -> str:
        """A table of the actions, the longest first."""
        whole = time.perf_counter() - self._since
        found = sorted(self.recorded.items(), key=lambda item: item[1].seconds, reverse=True)
        calls = sum(tally.calls for _, tally in found)
        rows = [
            ("Action", "Mean duration (s)", "Num calls", "Total time (s)", "Percentage %"),
            ("Total", "-", str(calls), f"{whole:.5g}", "100"),
        ]
        for action, tally in found:
            mean, part = tally.seconds / tally.calls, 100 * tally.seconds / whole
            rows.append(
                (action, f"{mean:.5g}", str(tally.calls), f"{tally.seconds:.5g}", f"{part:.3g}")
            )
        if self.extended:
            return f"{self.title()}\n{_aligned(rows)}"
        del rows[1]
        return f"{self.title()}\n{_aligned([(row[0], row[1], row[3]) for row in rows])}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines; the first column to the left, the others to the right, a rule under the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
