"""RichProgressBar: the progress bar that rich draws, in colours of the user's choice."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchrelay.arguments import answering
from torchrelay.callbacks.progress_bar import LINE_EVERY_N_SECONDS, ProgressBar
from torchrelay.callbacks.progress_displays import Display, PlainDisplay
from torchrelay.errors import ConfigurationError, NotInstalledError
from torchrelay.plugin.installing import install_extra


@dataclass(frozen=True)
class RichProgressBarTheme:
    """Styles of rich's, by part.

    Attributes:
        description: what moves.
        progress_bar: the part of the bar that is done.
        progress_bar_finished: the bar that is complete.
        progress_bar_pulse: the bar of data without a length.
        batch_progress: the number of batches.
        time: time taken and left.
        processing_speed: steps or batches a second.
        metrics: the figures.
        metrics_text_delimiter: what stands between two figures.
        metrics_format: how a figure is written, as in `format(value, ".4g")`.
    """

    description: str = ""
    progress_bar: str = "bar.complete"
    progress_bar_finished: str = "bar.finished"
    progress_bar_pulse: str = "bar.pulse"
    batch_progress: str = ""
    time: str = "dim"
    processing_speed: str = "dim"
    metrics: str = ""
    metrics_text_delimiter: str = "  "
    metrics_format: str = ".4g"


class RichProgressBar(ProgressBar):
    """`ProgressBar` that needs rich; plain lines where the console is no terminal.

    Args:
        refresh_rate: redraws per second at most; 0 shows nothing at all.
        leave: keep the bar of each epoch rather than that of the last alone.
        theme: the styles.
        console_kwargs: arguments of `rich.console.Console`, which is on stderr unless they say otherwise.
        line_every_n_seconds: as for `ProgressBar`.

    Raises:
        NotInstalledError: there is no rich.
    """

    @answering
    def __init__(
        self,
        refresh_rate: float = 8.0,
        leave: bool = False,
        theme: RichProgressBarTheme | None = None,
        console_kwargs: Mapping[str, Any] | None = None,
        line_every_n_seconds: float | None = LINE_EVERY_N_SECONDS,
    ) -> None:
        if importlib.util.find_spec("rich") is None:
            raise NotInstalledError(
                f"RichProgressBar needs rich, which is not installed; run: {install_extra('rich')}"
            )
        if not isinstance(theme, (RichProgressBarTheme, type(None))):
            raise ConfigurationError(
                f"RichProgressBar(theme={theme!r}): must be a RichProgressBarTheme"
            )
        super().__init__(refresh_rate, leave, line_every_n_seconds)
        self.theme = theme or RichProgressBarTheme()
        self.console_kwargs = dict(console_kwargs or {})

    def make_display(self) -> Display:
        """Bars on rich's console."""
        from rich.console import Console

        from torchrelay.callbacks.rich_display import RichDisplay

        console = Console(**{"stderr": True, **self.console_kwargs})
        if not console.is_terminal and not console.is_jupyter:
            return PlainDisplay()
        return RichDisplay(console, self.theme, leave=self.leave)
