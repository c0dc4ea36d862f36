"""The rendezvous store, hosted by the launching process."""

from __future__ import annotations

import socket

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from torchrelay.environments.local import LOOPBACK


def host_store() -> TCPStore:
    """Host a store on loopback; its port is free because it is bound here, and stays bound.

    torch, given a host name and a port, would listen on every interface; given a bound socket
    (`master_listen_fd`) it listens on that one.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((LOOPBACK, 0))
        port = listener.getsockname()[1]
        return TCPStore(
            LOOPBACK,
            port,
            is_master=True,
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
