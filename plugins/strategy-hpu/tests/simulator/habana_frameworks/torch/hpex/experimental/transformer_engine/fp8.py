"""Simulated: whether the device has 8-bit floats, and the context in which they are used."""

from __future__ import annotations

from contextlib import contextmanager

from habana_frameworks.torch.hpu import get_device_name

entered: list[object] = []
"""Recipes of the contexts that were entered."""


def is_fp8_available():
    if get_device_name() == "GAUDI":
        return False, "FP8 not supported on Gaudi, Gaudi2 or higher required"
    return True, ""


class FP8GlobalStateManager:
    """Where later releases have it."""

    @classmethod
    def is_fp8_available(cls):
        return is_fp8_available()


@contextmanager
def fp8_autocast(enabled=False, force_measurement=None, fp8_recipe=None, fp8_group=None):
    there, reason = is_fp8_available()
    assert there or not enabled, reason
    entered.append(fp8_recipe)
    yield
