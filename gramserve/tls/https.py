"""A small HTTP server for pages such as the metrics, with TLS where the service has a certificate."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from gramserve.tls.service import Tls

PATIENCE_S = 10.0
LONGEST_S = 30.0
MOST = 32


class HttpServer:
    """Serves the WSGI `app` at host:port from threads; port 0 takes a free one, `port` says which.

    `what` names the pages in the error. Raises Unsafe for plain text beyond this machine, OSError when the port is
    taken.
    """

    def __init__(
        self,
        what: str,
        host: str,
        port: int,
        app: Callable[..., Any],
        tls: Tls | None = None,
        *,
        patience_s: float = PATIENCE_S,
        longest_s: float = LONGEST_S,
    ) -> None:
        tls = tls or Tls()
        tls.check_listener(what, host)
        self._server = make_server(host, port, app, _ServerOfIPv6 if ":" in host else _Server, _Handler)
        self._server.tls = tls if tls.serves else None
        self._server.patience_s, self._server.longest_s = patience_s, longest_s
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, which also shakes hands: whoever is slow at that holds up nobody else.

    There are MOST connections at once, further ones are closed; none may be silent for longer than `patience_s`
    seconds, nor last longer than `longest_s`.
    """

    daemon_threads = True
    tls: Tls | None = None
    patience_s = PATIENCE_S
    longest_s = LONGEST_S

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: dict[Any, tuple[float, socket.socket]] = {}

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for one more."""
        return len(self._open) < MOST

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread."""
        request.settimeout(self.patience_s)
        self._open[request] = (time.monotonic() + self.longest_s, request)
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """End connections that last too long; called twice a second."""
        now = time.monotonic()
        for deadline, connection in list(self._open.values()):
            if now > deadline:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._open.pop(request, None)
        super().shutdown_request(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one request, over TLS where there is a certificate."""
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        context = self.tls.identity().context
        with context.wrap_socket(request, server_side=True, do_handshake_on_connect=False) as secured:
            self._open[request] = (self._open[request][0], secured)
            secured.do_handshake()
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of whoever could not be talked to; the default prints a stack trace."""


class _ServerOfIPv6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class calls it that
        """Write no line for each request."""
