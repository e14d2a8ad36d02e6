"""`/metrics` for Prometheus, over HTTP in a thread."""

from __future__ import annotations

import logging
import threading
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

log = logging.getLogger(__name__)


class MetricsServer:
    """Serves one registry; `serve_metrics` makes one."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def close_inherited(self) -> None:
        """For a child, right after the fork: the port is not to outlive the parent."""
        self._server.socket.close()


def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, *, usual_port: int | None = None
) -> MetricsServer | None:
    """Serves `registry` on `host`:`port`; None when `port` is 0 or cannot be had, which is one line in the
    log: nothing but the metrics is missing then. At INFO for `usual_port`, which nobody asked for: several
    workers on one machine want it and only one can have it."""
    if not port:
        return None
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        level = logging.INFO if port == usual_port else logging.WARNING
        log.log(level, "no metrics: %s:%d cannot be listened on: %s", host, port, error.strerror or error)
        return None
    return MetricsServer(server, thread)
