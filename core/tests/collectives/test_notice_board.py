from __future__ import annotations

import pytest
from torch.distributed import TCPStore

from torchrelay.collectives import notice_board
from torchrelay.collectives.notice_board import BoardError, NoticeBoard
from torchrelay.environments.environment import ClusterEnvironment

pytestmark = pytest.mark.timeout(120)

NOTES = """
    import time
    from torchrelay.collectives.notice_board import NoticeBoard

    c = TorchCollectives()
    if group_first:
        c.connect(environment, cpu)
    board = NoticeBoard(environment)
    board.post(f"rank-{rank}", {"says": [rank, "hello"]})
    deadline = time.monotonic() + 30
    while (other := board.read(f"rank-{1 - rank}")) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    result["other"] = other
    result["claimed"] = board.claim("alarm", {"rank": rank})
    result["nothing"] = board.read("nothing")
    if not group_first:
        c.connect(environment, cpu)
    result["sum"] = c.reduce(rank + 1, "sum")
    second = NoticeBoard(environment)
    result["second"] = second.read("rank-0")
    c.barrier()
    board.close()
    second.close()
    c.close()
"""


@pytest.mark.parametrize("hosted", [True, False], ids=["hosted", "own"])
@pytest.mark.parametrize("group_first", [True, False], ids=["group first", "board first"])
def test_ranks_read_each_others_notes_beside_a_process_group(run_pair, hosted, group_first):
    zero, one = run_pair(f"    group_first = {group_first}\n{NOTES}", hosted=hosted)
    assert zero["other"] == {"says": [1, "hello"]}
    assert one["other"] == {"says": [0, "hello"]}
    assert zero["claimed"] == one["claimed"]
    assert zero["claimed"]["rank"] in (0, 1)
    assert zero["nothing"] is None
    assert zero["sum"] == one["sum"] == 3
    assert zero["second"] is one["second"] is None


class Nowhere(ClusterEnvironment):
    name = "nowhere"
    creates_processes = True
    main_address = "127.0.0.1"
    main_port = 9  # discard, which nobody serves
    world_size, global_rank, local_rank, node_rank = 2, 1, 1, 0
    store_is_hosted = True

    @classmethod
    def detect(cls, environ):
        return True


def test_ranks_that_are_threads_of_a_process_read_each_others_notes():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [
        type("Rank", (Nowhere,), {"main_port": store.port, "global_rank": r})() for r in (0, 1)
    ]
    zero, one = map(NoticeBoard, ranks)
    zero.post("rank-0", {"says": "hello"})
    assert one.read("rank-0") == {"says": "hello"}
    later = NoticeBoard(ranks[1])
    assert later.read("rank-0") is None
    for board in (zero, one, later):
        board.close()


def test_a_store_that_is_not_there_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(notice_board, "PATIENCE", 0.5)
    with pytest.raises(BoardError):
        NoticeBoard(Nowhere())
