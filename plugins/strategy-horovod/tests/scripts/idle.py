"""How much of a processor each rank takes while it waits for a slow step, here or under Horovod's own launcher.

python idle.py [bare]

`bare` lets `horovod.run` start the processes, for comparison.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from problems import Regression, leave, loader, quiet

SECONDS, WINDOWS = 0.5, 8


def wait() -> float:
    """Seconds of processor time in a second of waiting: the least of some windows, as others use the machine too."""
    return min(window() for _ in range(WINDOWS))


def window() -> float:
    """The same, once."""
    begun = time.process_time()
    time.sleep(SECONDS)
    return (time.process_time() - begun) / SECONDS


class Slow(Regression):
    """Waits in a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            leave("idle", self.global_rank, wait())
        return super().training_step(batch, batch_idx)


def bare() -> float:
    """The same in a process that `horovod.run` has started."""
    import horovod.torch as hvd

    hvd.init()
    found = wait()
    hvd.shutdown()
    return found


def main() -> None:
    if sys.argv[1:] == ["bare"]:
        import horovod

        for rank, found in enumerate(horovod.run(bare, num_proc=2, use_gloo=True)):
            leave("idle", rank, found)
    else:
        quiet(strategy="horovod", devices=2, max_steps=3).fit(Slow(), loader(4))


if __name__ == "__main__":
    main()
