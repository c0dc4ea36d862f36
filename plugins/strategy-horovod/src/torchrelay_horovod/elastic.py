"""ElasticLauncher: a run in an elastic job of Horovod's, begun again when ranks come or go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.errors import CheckpointError, LaunchError, TorchrelayError
from torchrelay.launchers import Launcher
from torchrelay.tree import map_tensors
from torchrelay_horovod import vendor


class HostsChangedError(TorchrelayError):
    """Horovod has found hosts that may join, or that are to leave."""


class Hosts:
    """Hears of hosts that come or go, from Horovod's driver, which tells rank 0 alone."""

    def __init__(self) -> None:
        self._listening = self._changed = False

    def listen(self) -> None:
        """Begin to listen, and forget what was heard."""
        self._changed = False
        if not self._listening:
            self._listening = True
            vendor.listen_for_hosts(self)

    def on_hosts_updated(self, timestamp: int, update_res: Any) -> None:
        """Called by Horovod, in a thread of its own."""
        self._changed = True

    def have_changed(self) -> bool:
        """Whether hosts have come or gone since the run was begun."""
        return self._changed


hosts = Hosts()


class Commits:
    """What this process has committed, and whether its run goes on from there.

    Attributes:
        last: a checkpoint, its tensors on the CPU; None before the first commit.
        recovering: whether the run has begun again, to go on from the last commit.
    """

    def __init__(self) -> None:
        self.last: Mapping[str, Any] | None = None
        self.recovering = False

    def begin(self) -> None:
        """Forget those of an earlier run."""
        self.last, self.recovering = None, False

    def recover(self) -> bool:
        """Let the run go on from the last commit when it begins again; False if there is none."""
        self.recovering = self.last is not None
        return self.recovering

    def keep(self, checkpoint: Mapping[str, Any]) -> None:
        """Commit a checkpoint."""
        self.last = map_tensors(
            dict(checkpoint), lambda tensor: tensor.detach().to("cpu", copy=True)
        )

    def copy(self, world_size: int) -> dict[str, Any]:
        """The last commit, to be trained on from by so many ranks.

        Ranks take batches of an epoch in turns, so that more or fewer of them go on at another batch of theirs; what
        does not come out even is seen again.

        Raises:
            CheckpointError: there is none.
        """
        if self.last is None:
            raise CheckpointError("rank 0 has no commit to go on from; it has not trained yet")
        checkpoint: dict[str, Any] = map_tensors(self.last, lambda tensor: tensor.clone())
        before = checkpoint["torchrelay"]["world_size"]
        if before != world_size:
            fit = checkpoint["loops"]["fit"]
            batch = fit["batch"] * before // world_size
            fit = {**fit, "batch": batch, "of": None}
            checkpoint["loops"] = {**checkpoint["loops"], "fit": fit}
        return checkpoint


class ElasticLauncher(Launcher):
    """Runs a function in this process, which horovodrun has started, and again whenever ranks have come or gone.

    Args:
        commits: of the strategy whose run it is.
    """

    name = "horovod elastic"
    returns_to_caller = False

    def __init__(self, commits: Commits) -> None:
        self._commits = commits

    def launch(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Run `function(*args)` until it comes to its end with the ranks that there are.

        Raises:
            LaunchError: a rank is lost, and nothing has been committed to go on from.
        """
        self._commits.begin()
        while True:
            hosts.listen()
            try:
                return function(*args)
            except (vendor.RanksLostError, HostsChangedError) as change:
                if not self._commits.recover():
                    raise LaunchError(
                        f"{change}; there is no commit to go on from: give the Trainer "
                        "callbacks=[torchrelay_horovod.ElasticCommit(every_n_train_steps=100)]"
                    ) from change
                sys.stderr.write(f"torchrelay: {change}; going on from the last commit\n")
