"""`torchrelay plot`: loss, metrics, learning rate and throughput of CSV logs, as a picture and in the terminal.

Imports no torch.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

from torchrelay.cli.plotting import png, terminal
from torchrelay.cli.plotting.axes import axis_of
from torchrelay.cli.plotting.log import Log, names_of
from torchrelay.cli.plotting.panels import AXES, THROUGHPUT, Panel, first, panels_of
from torchrelay.cli.plotting.runs import find
from torchrelay.errors import ConfigurationError

PICTURE = "metrics.png"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand to the parser."""
    text = "draw loss, metrics, learning rate and throughput of a run that CSVLogger recorded"
    parser = commands.add_parser("plot", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's folder (.../version_0), its metrics.csv, or a folder of runs: its newest; several are compared",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help=f"the picture (default: {PICTURE} in the run's folder; for several runs in the working directory)",
    )
    parser.add_argument(
        "--metrics", metavar="A,B,...", help="columns or titles of panels to draw (default: all)"
    )
    parser.add_argument("--x", choices=AXES, help="what runs along (default: step)")
    parser.add_argument(
        "--no-terminal", action="store_true", help="write the picture and draw nothing here"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, and print where the picture is."""
    if not arguments.no_terminal:
        terminal.library()  # ask before an hour's log is read
    logs = _logs(arguments.runs)
    x = arguments.x or ("step" if all("step" in log.columns for log in logs) else "epoch")
    for log in logs:
        if x not in log.columns:
            raise ConfigurationError(f"{log.path} has no column {x}; choose another with --x")
    wanted = [name.strip() for name in (arguments.metrics or "").split(",") if name.strip()]
    panels = panels_of(logs, x, wanted)
    _check(logs, panels, wanted)
    shown = first(panels)
    axis = axis_of(x, shown)
    output = arguments.output or os.path.join(
        os.path.dirname(logs[0].path) if len(logs) == 1 else "", PICTURE
    )
    png.write(shown, axis, ", ".join(log.name for log in logs), output)
    if not arguments.no_terminal:
        print(terminal.charts(shown, axis, sys.stdout), end="\n\n")
    for note in _notes(logs, panels, shown, wanted):
        print(note)
    print(f"wrote {output}")
    return 0


def _logs(runs: list[str]) -> list[Log]:
    found = [find(given) for given in runs]
    for _, choice in found:
        if choice:
            print(choice)
    paths = list(dict.fromkeys(os.path.normpath(path) for path, _ in found))
    return [Log(path, name) for path, name in zip(paths, names_of(paths), strict=True)]


def _check(logs: list[Log], panels: list[Panel], wanted: list[str]) -> None:
    """Refuse names that are not there, and logs without anything to draw."""
    there = panels_of(logs, "step") or panels_of(logs, "epoch") if wanted else panels
    known = {panel.title for panel in there}
    columns = {name for log in logs for name in log.columns} - set(AXES)
    unknown = [name for name in wanted if name not in known | columns]
    if unknown:
        listed = sorted(known | columns)
        more = f", and {len(listed) - 20} more" if len(listed) > 20 else ""
        raise ConfigurationError(
            f"--metrics: no {', '.join(unknown)} in {', '.join(log.path for log in logs)}; there are "
            f"{', '.join(listed[:20])}{more}"
        )
    if not panels:
        raise ConfigurationError(
            f"{', '.join(log.path for log in logs)}: nothing to draw, no column but step, epoch and time holds a number"
        )


def _notes(
    logs: list[Log], panels: list[Panel], shown: list[Panel], wanted: list[str]
) -> list[str]:
    """What the picture does not show."""
    notes = []
    if len(shown) < len(panels):
        notes.append(
            f"{len(shown)} of {len(panels)} panels are drawn; choose others with --metrics A,B,..."
        )
    if not wanted or THROUGHPUT in wanted:
        notes += [
            f"no throughput: {log.path} has no column time"
            for log in logs
            if "time" not in log.columns
        ]
    for panel in shown:
        for series in panel.series:
            gaps = sum(map(math.isnan, series.y))
            if gaps:
                notes.append(
                    f"{series.label}: {gaps} of {len(series.y)} points are NaN or infinite"
                )
    return notes
