from __future__ import annotations

import pytest

from torchrelay import profilers
from torchrelay.errors import ConfigurationError, UnknownNameError
from torchrelay.profilers import make


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("simple", "SimpleProfiler"),
        ("advanced", "AdvancedProfiler"),
        ("pytorch", "PyTorchProfiler"),
        ("Simple", "SimpleProfiler"),
    ],
)
def test_a_name(name, kind):
    assert type(make(name)) is getattr(profilers, kind)


def test_an_instance_is_itself():
    profiler = profilers.SimpleProfiler()
    assert make(profiler) is profiler


@pytest.mark.parametrize("nothing", [None, profilers.PassThroughProfiler()])
def test_nothing_to_measure(nothing):
    assert make(nothing) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("simpel", "did you mean 'simple'?"), ("xla", "no profiler is called 'xla';")],
)
def test_an_unknown_name(name, hint):
    with pytest.raises(UnknownNameError, match="'simple', 'advanced', 'pytorch'") as caught:
        make(name)
    assert hint in str(caught.value)


@pytest.mark.parametrize("value", [True, 3, profilers.SimpleProfiler, object()])
def test_what_is_no_profiler(value):
    with pytest.raises(ConfigurationError, match="must be 'simple', 'advanced', 'pytorch', None"):
        make(value)
