"""AdvancedProfiler: which functions an action spends its time in."""

from __future__ import annotations

import cProfile
import io
import os
import pstats
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError
from torchrelay.profilers.profiler import Profiler, keeping_results


class AdvancedProfiler(Profiler):
    """Measures the Python functions called in each action, by `cProfile`.

    Only one action can be measured at a time, so what is done in an inner action counts for that one alone. Other
    threads are not seen, nor is the device.

    Args:
        dirpath: folder of the report; the run's own when None.
        filename: name of the report, which is printed when both are None.
        line_count_restriction: functions to list for each action: so many (int), or a part of them (0.0 to 1.0).
        dump_stats: also write `STAGE-FILENAME-RANK-ACTION.prof` for each action, for `pstats` and its viewers.
    """

    @answering
    def __init__(
        self,
        dirpath: str | os.PathLike[str] | None = None,
        filename: str | None = None,
        line_count_restriction: float = 1.0,
        dump_stats: bool = False,
    ) -> None:
        super().__init__(dirpath, filename)
        whole = isinstance(line_count_restriction, int) and line_count_restriction >= 1
        part = isinstance(line_count_restriction, float) and 0.0 <= line_count_restriction <= 1.0
        if isinstance(line_count_restriction, bool) or not (whole or part):
            raise ConfigurationError(
                f"line_count_restriction={line_count_restriction!r} must be a number of lines from 1, or a fraction "
                "from 0.0 to 1.0"
            )
        if not isinstance(dump_stats, bool):
            raise ConfigurationError(f"dump_stats={dump_stats!r} must be True or False")
        self.line_count_restriction = line_count_restriction
        self.dump_stats = dump_stats
        self.profiled_actions: dict[str, cProfile.Profile] = {}
        self._under_way: list[str] = []

    @property
    def writes_files(self) -> bool:
        """Whether a run ends with files."""
        return self.dump_stats or super().writes_files

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin a run with empty records."""
        super().setup(stage, local_rank, log_dir)
        for action_name in set(self.profiled_actions).difference(self._under_way):
            del self.profiled_actions[action_name]

    def start(self, action_name: str) -> None:
        """Measure this action, and for as long not the one around it.

        Raises:
            ConfigurationError: the action is under way already, or another Python profiler is at work.
        """
        if action_name in self._under_way:
            raise ConfigurationError(
                f"profiler.start({action_name!r}): this action is under way already; stop it first, or give the "
                "inner one another name"
            )
        self.profiled_actions.setdefault(action_name, cProfile.Profile())
        with self._paused():
            self._under_way.append(action_name)

    def stop(self, action_name: str) -> None:
        """End this action and go on with the one around it.

        Raises:
            ConfigurationError: the action was not started.
        """
        if action_name not in self._under_way:
            raise ConfigurationError(
                f"profiler.stop({action_name!r}): this action was not started; call start first, or use "
                f"`with profiler.profile({action_name!r}):`"
            )
        with self._paused():
            self._under_way.remove(action_name)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Measure nothing inside, and then the innermost action; a profile must not be ended while another is on."""
        if self._under_way:
            self.profiled_actions[self._under_way[-1]].disable()
        yield
        if not self._under_way:
            return
        try:
            self.profiled_actions[self._under_way[-1]].enable()
        except ValueError as error:  # one Python profiler at a time, from Python 3.12 on
            raise ConfigurationError(
                f"AdvancedProfiler cannot measure: {error}; leave out the other profiler, or take profiler='simple'"
            ) from error

    def summary(self) -> str:
        """For each action that has ended, its functions, by the time spent in them and what they call."""
        parts = [self.title()]
        with self._paused():
            for action_name, profile in self._ended().items():
                text = io.StringIO()
                stats = pstats.Stats(profile, stream=text).strip_dirs().sort_stats("cumulative")
                stats.print_stats(self.line_count_restriction)
                parts += [f"Profile stats for: {action_name}", text.getvalue().strip()]
        return "\n".join(parts)

    def describe(self) -> None:
        """Print or write the report, and the records if they are to be kept."""
        super().describe()
        if not self.dump_stats:
            return
        with self._paused():
            for action_name, profile in self._ended().items():
                path = self.path(".prof", action_name)
                with keeping_results(path):
                    profile.dump_stats(path)

    def _ended(self) -> dict[str, cProfile.Profile]:
        found = self.profiled_actions.items()
        return {name: profile for name, profile in found if name not in self._under_way}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the records behind: a process that is about to be launched makes its own."""
        return {**self.__dict__, "profiled_actions": {}, "_under_way": []}
