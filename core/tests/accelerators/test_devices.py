from __future__ import annotations

import pytest

from torchrelay.accelerators.devices import parse_devices
from torchrelay.errors import ConfigurationError


def gpus(requested, available=4):
    return parse_devices(requested, accelerator="cuda", available=available, indexed=True)


def cores(requested, available=2):
    return parse_devices(requested, accelerator="cpu", available=available, indexed=False)


@pytest.mark.parametrize(
    ("requested", "devices"),
    [
        (1, (0,)),
        (3, (0, 1, 2)),
        ("3", (0, 1, 2)),
        (4, (0, 1, 2, 3)),
        (-1, (0, 1, 2, 3)),
        ("-1", (0, 1, 2, 3)),
        ("auto", (0, 1, 2, 3)),
        (" auto ", (0, 1, 2, 3)),
        ([0, 2], (0, 2)),
        ((3, 1), (3, 1)),
        ("0,2", (0, 2)),
        (" 3 , 1 ", (3, 1)),
        ("2,", (2,)),
        (range(2), (0, 1)),
    ],
    ids=repr,
)
def test_devices_with_an_index(requested, devices):
    assert gpus(requested) == devices


@pytest.mark.parametrize(
    ("requested", "devices"),
    [
        (1, (0,)),
        (5, (0, 1, 2, 3, 4)),
        ("5", (0, 1, 2, 3, 4)),
        ("auto", (0,)),
        (-1, (0, 1)),
        ("-1", (0, 1)),
    ],
    ids=repr,
)
def test_processes_may_outnumber_the_cores(requested, devices):
    assert cores(requested) == devices


@pytest.mark.parametrize(
    ("requested", "why", "write"),
    [
        (0, "asks for 0 devices", "a number from 1"),
        ("0", "asks for 0 devices", "a number from 1"),
        (-2, "asks for -2 devices", "-1 for all"),
        ("-2", "asks for -2 devices", "-1 for all"),
        (5, "asks for 5 cuda devices, but there are only 4", "write devices=4 or devices='auto'"),
        ([], "names no device", "devices='auto'"),
        ([0, 0, 2], "names device 0 twice", "write devices=[0, 2]"),
        ("1,1", "names device 1 twice", "write devices=[1]"),
        ([0, 4, 5], "names cuda device 4, 5, but there are only 4", "indices from 0 to 3"),
        ([-1], "names cuda device -1", "indices from 0 to 3"),
        ("x", "is no way to ask for cuda devices", "indices ([0, 2] or '0,2')"),
        ("", "is no way to ask", "'auto'"),
        (",", "is no way to ask", "'auto'"),
        ("0,x", "is no way to ask", "'auto'"),
        ("1.5", "is no way to ask", "'auto'"),
        (1.0, "is no way to ask", "'auto'"),
        (True, "is no way to ask", "'auto'"),
        ([0, True], "is no way to ask", "'auto'"),
        (["0"], "is no way to ask", "'auto'"),
        ([[0]], "is no way to ask", "'auto'"),
        (None, "is no way to ask", "'auto'"),
        ({0}, "is no way to ask", "'auto'"),
    ],
    ids=repr,
)
def test_what_cannot_be_says_what_why_and_what_to_write(requested, why, write):
    with pytest.raises(ConfigurationError) as caught:
        gpus(requested)
    text = str(caught.value)
    assert text.startswith(f"devices={requested!r} ")
    assert why in text
    assert write in text
    assert "\n" not in text


@pytest.mark.parametrize("requested", [0, -2, "x", None, []], ids=repr)
def test_nonsense_is_nonsense_without_an_index_too(requested):
    with pytest.raises(ConfigurationError, match=r"^devices="):
        cores(requested)


@pytest.mark.parametrize("requested", [[0, 1], "0,1", (0, 5)], ids=repr)
def test_processes_cannot_be_picked_by_index(requested):
    with pytest.raises(ConfigurationError, match=r"are processes and have none; write devices=2$"):
        cores(requested)


@pytest.mark.parametrize("requested", [1, "auto", -1, [0]], ids=repr)
def test_no_device_at_all(requested):
    with pytest.raises(ConfigurationError, match=r"there is none here; write accelerator='cpu'"):
        gpus(requested, available=0)


def test_one_device_is_spoken_of_as_one():
    with pytest.raises(ConfigurationError, match=r"there is only 1; write devices=1"):
        gpus(2, available=1)


def test_whole_numbers_of_numpy_are_whole_numbers():
    numpy = pytest.importorskip("numpy")
    assert gpus(numpy.int64(2)) == (0, 1)
    assert [type(index) for index in gpus(numpy.array([0, 2]).tolist())] == [int, int]
