"""HTTP replies that end by a deadline: a socket's timeout starts anew with every byte, in headers, too."""

from __future__ import annotations

import functools
import http.client
import io
import socket
import time
import urllib.request
from typing import Any


class _TimedFile(io.RawIOBase):
    """Reads a socket until a deadline."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline
        self._raw: Any = connection.makefile("rb", buffering=0)  # keeps the socket open, as `http.client` has it

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out before its reply was whole")
        timeout = self._connection.gettimeout()
        self._connection.settimeout(left if timeout is None else min(timeout, left))
        found: int | None = self._raw.readinto(buffer)
        return found

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedSocket:
    """What `http.client.HTTPResponse` takes: something to make a file of."""

    def __init__(self, connection: socket.socket, deadline: float) -> None:
        self._connection, self._deadline = connection, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedFile(self._connection, self._deadline))


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(_TimedSocket(sock, deadline), *args, **options)  # type: ignore[arg-type]


class _Plain(http.client.HTTPConnection):
    def __init__(self, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]


class _Secure(http.client.HTTPSConnection):
    def __init__(self, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self.response_class = functools.partial(_Response, deadline=deadline)  # type: ignore[assignment]


class TimedHTTP(urllib.request.HTTPHandler):
    """Opens `http:` URLs; a reply that is not whole by the deadline ends in a TimeoutError."""

    def __init__(self, deadline: float) -> None:
        """
        Args:
            deadline: in seconds of the monotonic clock.
        """
        super().__init__()
        self._deadline = deadline

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Plain, req, deadline=self._deadline)  # type: ignore[arg-type]


class TimedHTTPS(urllib.request.HTTPSHandler):
    """The same for `https:`."""

    def __init__(self, deadline: float) -> None:
        """
        Args:
            deadline: in seconds of the monotonic clock.
        """
        super().__init__()
        self._deadline = deadline

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Secure, req, deadline=self._deadline)  # type: ignore[arg-type]
