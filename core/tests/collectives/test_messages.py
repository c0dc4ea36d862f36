from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from torchrelay.collectives.messages import FIRST, as_bytes, gather, receive, send
from torchrelay.collectives.parcels import from_message, to_message

ROOM = FIRST - 8
CPU = torch.device("cpu")
SIZES = [1, ROOM - 1, ROOM, ROOM + 1, FIRST, 5000]


def message(size: int) -> torch.Tensor:
    return as_bytes(bytearray(index * 7 % 251 for index in range(size)))


@pytest.mark.parametrize("size", SIZES)
def test_what_is_received_is_what_was_sent_in_one_buffer_or_two(size: int) -> None:
    sent: list[torch.Tensor] = []
    send(message(size), lambda buffer: sent.append(buffer.clone()))
    assert [each.numel() for each in sent] == [FIRST, size - ROOM][: 1 + (size > ROOM)]
    on_the_way = iter(sent)
    received = receive(lambda buffer: buffer.copy_(next(on_the_way)))
    assert as_bytes(received).equal(message(size))


@dataclass
class Ranks:
    """What all ranks would send, gathered as a collective does it."""

    messages: list[torch.Tensor]
    sizes: list[int] = field(default_factory=list)

    def all_gather(self, buffer: torch.Tensor) -> torch.Tensor:
        rows = torch.full((len(self.messages), buffer.numel()), 255, dtype=torch.uint8)
        for row, each in zip(rows, self.messages, strict=True):
            length = as_bytes(bytearray(each.numel().to_bytes(8, "little")))
            content = each[ROOM:] if self.sizes else torch.cat([length, each])[:FIRST]
            row[: content.numel()] = content
        self.sizes.append(buffer.numel())
        return rows


@pytest.mark.parametrize("sizes", [[1, ROOM], [1, ROOM + 1, 9], [5000, 1], [ROOM + 5, 5000], [7]])
def test_messages_of_different_sizes_are_gathered(sizes: list[int]) -> None:
    for own in sizes:
        ranks = Ranks([message(size) for size in sizes])
        found = gather(message(own), ranks.all_gather)
        assert [as_bytes(each).tolist() for each in found] == [m.tolist() for m in ranks.messages]
        assert ranks.sizes == [FIRST, max(sizes) - ROOM][: 1 + (max(sizes) > ROOM)]


def test_an_object_ends_where_its_pickle_does() -> None:
    value = {"a": torch.arange(3), "b": ["text", None]}
    padded = torch.nn.functional.pad(to_message(value, CPU), (0, 100))
    found = from_message(padded, CPU)
    assert found["a"].equal(value["a"])
    assert found["b"] == value["b"]


def test_objects_travel_where_numpy_is_not_installed(
    run_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, warnings\n"
        "sys.modules['numpy'] = None\n"
        "warnings.filterwarnings('ignore', 'Failed to initialize NumPy')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = run_pair(
        """
        try:
            torch.ones(1).numpy()
        except RuntimeError as error:
            result["numpy"] = str(error)
        c = TorchCollectives()
        c.connect(environment, cpu)
        values = [rank, {"t": torch.ones(2, dtype=torch.bfloat16) * rank}, "x" * 1000 * (3 * rank + 1)]
        result["broadcast"] = [c.broadcast(value, src) for src in (0, 1) for value in values]
        result["gathered"] = [c.gather_objects(value) for value in values]
        c.close()
        """
    )
    for each in found:
        assert each["numpy"] == "Numpy is not available"
        numbers, dictionaries, texts = each["gathered"]
        assert numbers == [0, 1]
        assert [d["t"].tolist() for d in dictionaries] == [[0, 0], [1, 1]]
        assert [len(text) for text in texts] == [1000, 4000]
        assert each["broadcast"][0] == 0
        assert each["broadcast"][4]["t"].dtype is torch.bfloat16
        assert each["broadcast"][5] == texts[1]


def test_an_object_that_cannot_be_pickled_fails_before_anything_is_sent(run_pair: Any) -> None:
    found = run_pair(
        """
        c = TorchCollectives()
        c.connect(environment, cpu)
        try:
            c.broadcast(lambda: None) if rank == 0 else c.gather_objects(lambda: None)
        except Exception as error:
            result["error"] = str(error)
        result["after"] = c.broadcast("still in step", src=1)
        c.close()
        """
    )
    assert all("lambda" in each["error"] for each in found)
    assert [each["after"] for each in found] == ["still in step"] * 2
