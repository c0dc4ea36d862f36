"""Profiler: what measures the actions of a run, and where its report goes."""

from __future__ import annotations

import os
import re
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torchrelay.arguments import answering
from torchrelay.errors import ConfigurationError

_UNSAFE = re.compile(r'[\\/:*?"<>|\s]+')


class Profiler(ABC):
    """Measures the actions of a run. Subclass it, and say how an action starts and stops.

    The report is printed on rank 0, or, where `dirpath` or `filename` is given, appended by each rank to the file
    `DIRPATH/STAGE-FILENAME-RANK.txt`.

    Args:
        dirpath: folder of the report; the run's own when None.
        filename: name of the report, without its extension.
    """

    dirpath: str | os.PathLike[str] | None = None
    filename: str | None = None
    stage: str | None = None
    global_rank: int | None = None
    _log_dir: str | None = None

    @answering
    def __init__(
        self, dirpath: str | os.PathLike[str] | None = None, filename: str | None = None
    ) -> None:
        if not isinstance(dirpath, (str, os.PathLike, type(None))):
            raise ConfigurationError(f"dirpath={dirpath!r} must be the path of a folder, or None")
        if not isinstance(filename, (str, type(None))):
            raise ConfigurationError(f"filename={filename!r} must be a string, or None")
        self.dirpath = dirpath
        self.filename = filename

    # --- what a profiler defines ------------------------------------------------------------------------

    @abstractmethod
    def start(self, action_name: str) -> None:
        """Begin to measure an action."""

    @abstractmethod
    def stop(self, action_name: str) -> None:
        """End the measurement of an action."""

    def summary(self) -> str:
        """The report; "" for none."""
        return ""

    # --- what a run calls -------------------------------------------------------------------------------

    @contextmanager
    def profile(self, action_name: str) -> Iterator[str]:
        """Measure what is done inside, as an action."""
        self.start(action_name)
        try:
            yield action_name
        finally:
            self.stop(action_name)

    def connect(self, module: Any, global_rank: int) -> None:
        """Hear whose run it is, and in which process; called before `setup`."""
        self.global_rank = global_rank

    def setup(self, stage: str, local_rank: int | None = None, log_dir: str | None = None) -> None:
        """Begin a run.

        Args:
            stage: "fit", "validate", "test" or "predict".
            local_rank: this process's rank on its node.
            log_dir: the run's folder, in the place of a `dirpath`.

        Raises:
            ConfigurationError: files are to be written, and their folder cannot be.
        """
        self.stage, self._log_dir = stage, log_dir
        if self.writes_files:
            _make_folder(self.folder)

    def teardown(self, stage: str | None) -> None:
        """End a run, whether or not it succeeded."""

    def describe(self) -> None:
        """Print the report, or append it to its file."""
        report = self.summary()
        if not report:
            return
        if not self._reports_to_file:
            self._print(report)
            return
        path = self.path(".txt")
        with keeping_results(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{report}\n")

    def _print(self, report: str) -> None:
        if not self.global_rank:
            sys.stderr.write(f"{report}\n")

    # --- where files go ---------------------------------------------------------------------------------

    @property
    def writes_files(self) -> bool:
        """Whether a run ends with files."""
        return self._reports_to_file

    @property
    def _reports_to_file(self) -> bool:
        return self.dirpath is not None or self.filename is not None

    @property
    def folder(self) -> str:
        """Where files go: `dirpath`, or else the run's folder, or else the working directory."""
        return os.fspath(self.dirpath or self._log_dir or os.getcwd())

    def path(self, extension: str, action_name: str | None = None) -> str:
        """A file of this run: `FOLDER/STAGE-FILENAME-RANK-ACTION` and an extension, without what is not given."""
        rank = None if self.global_rank is None else str(self.global_rank)
        parts = [part for part in (self.stage, self.filename, rank, action_name) if part]
        name = _UNSAFE.sub("_", "-".join(parts)) or "profile"
        return os.path.join(self.folder, name + extension)

    def title(self) -> str:
        """The first line of a report."""
        stage = f"{self.stage.upper()} " if self.stage else ""
        rank = f", rank {self.global_rank}" if self.global_rank is not None else ""
        return f"{stage}Profiler Report{rank}"


class PassThroughProfiler(Profiler):
    """Measures nothing; what `trainer.profiler` is where none was asked for."""

    _NOTHING: AbstractContextManager[Any] = nullcontext()

    def start(self, action_name: str) -> None:
        """Do nothing."""

    def stop(self, action_name: str) -> None:
        """Do nothing."""

    def profile(  # type: ignore[override]  # the base's is what `contextmanager` makes
        self, action_name: str
    ) -> AbstractContextManager[Any]:
        """A context that does nothing."""
        return self._NOTHING


@contextmanager
def keeping_results(path: str) -> Iterator[None]:
    """Warn of a file that cannot be written: the work that was measured is done, and must not be lost for it."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"the profiler cannot write {path}: {error}", stacklevel=3)


def _make_folder(folder: str) -> None:
    """Make a folder, if it is not there, and see that files can be written in it.

    Raises:
        ConfigurationError: they cannot.
    """
    reason = "files of a profiler go to a local disk" if "://" in folder else ""
    if not reason:
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            reason = str(error)
        else:
            reason = "" if os.access(folder, os.W_OK) else "no permission to write in it"
    if reason:
        raise ConfigurationError(
            f"the profiler cannot write to {folder!r}: {reason}; give it another dirpath"
        )
