"""The service of rank 0. Bagua's is an HTTP server on every interface; this is a socket on the loopback one."""

from __future__ import annotations

import socket

from bagua.torch_api import env

LOOPBACK = "127.0.0.1"
KEY = "bagua_autotune_service_port"


def met(store: object) -> socket.socket:
    """Start the service on rank 0, and meet it from the others; it lives as long as what is returned."""
    if env.get_rank() == 0:
        port = max(env.get_bagua_service_port(), 0)
        try:
            listening = socket.create_server((LOOPBACK, port))
        except OSError as error:
            raise RuntimeError(f"simulated: autotune service not ready: {error}") from error
        store.set(KEY, str(listening.getsockname()[1]))
        return listening
    port = int(store.get(KEY))
    return socket.create_connection((env.get_master_addr(), port), timeout=30)
