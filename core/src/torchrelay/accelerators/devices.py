"""What `Trainer(devices=...)` means. Pure, and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex, TypeGuard

from torchrelay.errors import ConfigurationError

Devices = int | str | Sequence[int]
"""A number of devices, `"auto"`, -1 for all, indices, or any of them as text."""

ALL = -1


def parse_devices(
    requested: Devices, *, accelerator: str, available: int, indexed: bool
) -> tuple[int, ...]:
    """The indices of the devices that a user asks for.

    Args:
        requested: `4`, `"4"`; `-1`, `"-1"` for all; `"auto"` for all, or for one process where
            devices have no index; `[0, 2]`, `"0,2"` for particular ones.
        accelerator: name of the accelerator, for messages.
        available: number of devices here; of cores, where devices have no index.
        indexed: whether devices are told apart by index. Without, a device is a process, and there
            may be more than `available`.

    Raises:
        ConfigurationError: it cannot be so; the message says what was asked, why not, and what to
            write.
    """
    asked = f"devices={requested!r}"
    if indexed and available < 1:
        raise ConfigurationError(
            f"{asked} for accelerator {accelerator!r}, but there is none here; "
            "write accelerator='cpu', or accelerator='auto' for the best there is"
        )
    wanted = _read(requested, asked, accelerator)
    if not isinstance(wanted, int):
        return _pick(wanted, asked, accelerator, available, indexed)
    if wanted == ALL:
        automatic = isinstance(requested, str) and requested.strip() == "auto"
        return tuple(range(1 if automatic and not indexed else available))
    if wanted < 1:
        raise ConfigurationError(
            f"{asked} asks for {wanted} devices; write a number from 1, -1 for all, or 'auto'"
        )
    if indexed and wanted > available:
        raise ConfigurationError(
            f"{asked} asks for {wanted} {accelerator} devices, but there {_are(available)}; "
            f"write devices={available} or devices='auto'"
        )
    return tuple(range(wanted))


def _read(requested: Devices, asked: str, accelerator: str) -> int | tuple[int, ...]:
    """A number of devices (`ALL` for all), or indices."""
    if isinstance(requested, str):
        return _read_text(requested.strip(), asked, accelerator)
    if _is_index(requested):
        return int(requested)
    if isinstance(requested, Sequence) and all(map(_is_index, requested)):
        return tuple(map(int, requested))
    raise _unreadable(asked, accelerator)


def _is_index(value: object) -> TypeGuard[SupportsIndex]:
    """Whether it is a whole number; `True` is an answer, not a number of devices."""
    return isinstance(value, SupportsIndex) and not isinstance(value, bool)


def _read_text(text: str, asked: str, accelerator: str) -> int | tuple[int, ...]:
    if text == "auto":
        return ALL
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = tuple(int(part) for part in parts if part)
    except ValueError:
        raise _unreadable(asked, accelerator) from None
    if not numbers:
        raise _unreadable(asked, accelerator)
    return numbers[0] if len(parts) == 1 else numbers


def _pick(
    indices: tuple[int, ...], asked: str, accelerator: str, available: int, indexed: bool
) -> tuple[int, ...]:
    if not indices:
        raise ConfigurationError(f"{asked} names no device; write devices=1 or devices='auto'")
    if not indexed:
        raise ConfigurationError(
            f"{asked} picks devices by index, but {accelerator} devices are processes and have "
            f"none; write devices={len(indices)}"
        )
    twice = sorted({index for index in indices if indices.count(index) > 1})
    if twice:
        raise ConfigurationError(
            f"{asked} names device {', '.join(map(str, twice))} twice; write "
            f"devices={sorted(set(indices))}"
        )
    beyond = [index for index in indices if not 0 <= index < available]
    if beyond:
        raise ConfigurationError(
            f"{asked} names {accelerator} device {', '.join(map(str, beyond))}, but there "
            f"{_are(available)}: write indices from 0 to {available - 1}"
        )
    return indices


def _are(available: int) -> str:
    return "is only 1" if available == 1 else f"are only {available}"


def _unreadable(asked: str, accelerator: str) -> ConfigurationError:
    return ConfigurationError(
        f"{asked} is no way to ask for {accelerator} devices; write a number (2), -1 for all, "
        "'auto', or indices ([0, 2] or '0,2')"
    )
