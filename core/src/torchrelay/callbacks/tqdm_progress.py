"""TQDMProgressBar: the progress bar that tqdm draws."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any

from torchrelay.arguments import answering
from torchrelay.callbacks.progress_bar import LINE_EVERY_N_SECONDS, ProgressBar
from torchrelay.callbacks.progress_displays import (
    Bar,
    Display,
    PlainDisplay,
    Reading,
    in_notebook,
)
from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.plugin.installing import install_extra

_REDRAWS_PER_SECOND = 10.0
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class TQDMProgressBar(ProgressBar):
    """`ProgressBar` that tqdm draws on stderr; plain lines where that is no terminal.

    Args:
        refresh_rate: batches from one redraw to the next, of which there are ten a second at most; 0 shows nothing.
        process_position: lines to leave free above, for bars of the user's own.
        leave: keep the bar of each epoch rather than that of the last alone.
        line_every_n_seconds: as for `ProgressBar`.

    Raises:
        NotInstalledError: there is no tqdm.
    """

    @answering
    def __init__(
        self,
        refresh_rate: int = 1,
        process_position: int = 0,
        leave: bool = False,
        line_every_n_seconds: float | None = LINE_EVERY_N_SECONDS,
    ) -> None:
        if importlib.util.find_spec("tqdm") is None:
            raise NotInstalledError(
                f"TQDMProgressBar needs tqdm, which is not installed; run: {install_extra('tqdm')}"
            )
        for name, value in (("refresh_rate", refresh_rate), ("process_position", process_position)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigurationError(
                    f"TQDMProgressBar({name}={value!r}): must be a whole number from 0"
                )
        super().__init__(_REDRAWS_PER_SECOND, leave, line_every_n_seconds)
        self.refresh_rate = refresh_rate
        self.process_position = process_position

    def make_display(self) -> Display:
        """Bars of tqdm's."""
        if not sys.stderr.isatty() and not in_notebook():
            return PlainDisplay()
        return TQDMDisplay(self.process_position, self.leave)

    def due(self, done: int) -> bool:
        """Whether it is one of those batches, and some time has passed."""
        return done % int(self.refresh_rate) == 0 and self.time_to_draw(_REDRAWS_PER_SECOND)


class TQDMDisplay(Display):
    """Bars of tqdm's, one below the other.

    Args:
        position: lines to leave free above.
        leave: keep the bar of each epoch.
    """

    def __init__(self, position: int = 0, leave: bool = False) -> None:
        widgets = in_notebook() and importlib.util.find_spec("ipywidgets") is not None
        self._tqdm: Any = importlib.import_module("tqdm.auto" if widgets else "tqdm").tqdm
        self._position = position
        self._leave = leave
        self._last: _TQDMBar | None = None

    def begin(self, title: str, total: int | None, *, passing: bool) -> Bar:
        """Add a bar, in the place of the one that has ended."""
        if not passing:
            self._finish(keep=self._leave)
        made = self._tqdm(
            desc=title,
            total=total,
            position=self._position + int(passing),
            leave=not passing,
            file=sys.stderr,
            dynamic_ncols=True,
            bar_format=_FORMAT,
        )
        bar = _TQDMBar(made, passing)
        if not passing:
            self._last = bar
        return bar

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self._tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the last bar as it stands."""
        self._finish(keep=True)

    def _finish(self, *, keep: bool) -> None:
        if self._last is not None:
            self._last.close(keep=keep)
            self._last = None


class _TQDMBar(Bar):
    def __init__(self, bar: Any, passing: bool) -> None:
        self._bar = bar
        self._passing = passing

    def name(self, title: str, total: int | None) -> None:
        """Go on with the next data loader."""
        self._bar.reset(total)
        self._bar.set_description(title, refresh=False)

    def draw(self, reading: Reading) -> None:
        """Redraw."""
        self._bar.n = reading.done or 0
        shown = ", ".join(part for part in (reading.rate, reading.text(delimiter=", ")) if part)
        self._bar.set_postfix_str(shown, refresh=False)
        self._bar.refresh()

    def end(self, reading: Reading) -> None:
        """Leave the bar as it stands; one within another is gone."""
        if self._passing:
            self._bar.close()
        else:
            self.draw(reading)

    def close(self, *, keep: bool) -> None:
        """Be done with it."""
        self._bar.leave = keep
        self._bar.close()
