"""Runs the app under uvicorn: in the foreground, or in a thread for as long as a block lasts."""

import errno
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from gateway.settings import Settings

LOOPBACK = "127.0.0.1"


class ServerError(Exception):
    """The gateway cannot serve."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, on a free port if `port` is 0; ServerError names host and port."""
    # With the protocol named, asyncio sets TCP_NODELAY: without, small answers wait 40 ms for the client.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        hint = "; choose another --port, or 0 for a free one" if taken else ""
        raise ServerError(f"cannot listen on {host}:{port}: {reason}{hint}") from error
    return listener


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def uvicorn_server(app: FastAPI, settings: Settings, log_level: str = "info") -> uvicorn.Server:
    """Leaving, it waits for requests in flight: uvicorn would answer 500 to those it cuts off."""
    graceful = int(settings.deadline_seconds) + 15
    config = uvicorn.Config(app, log_level=log_level, server_header=False, timeout_graceful_shutdown=graceful)
    return uvicorn.Server(config)


@contextmanager
def background(app: FastAPI, settings: Settings) -> Iterator[str]:
    """Serves `app` on a free loopback port while the block runs; gives its URL."""
    with listen(LOOPBACK, 0) as listener:
        server = uvicorn_server(app, settings, "warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            _await_start(server, thread)
            yield url_of(listener)
        finally:
            server.should_exit = True
            thread.join()


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    while not server.started:
        if not thread.is_alive():
            raise ServerError("the gateway did not start; its log says why")
        time.sleep(0.01)
