"""Requests to a server on this machine at a fraction of the openai package's CPU time, with the same bytes both ways.

The openai package takes a request through its type annotations, its own options, httpx, httpcore and h11: 2 to 3 ms of
CPU time, one after the other in a Python process. An engine on a GPU answers short questions faster than that.

The first request of each form (its keys, and the types of its values) goes the package's own way, and is watched. If
our bytes are its bytes, and what we make of the response is what it made, later requests of that form are sent here.
Whatever is not a plain answer (another status, an error, a timeout) is handed to the package as the outcome of its own
first attempt, so that errors, pauses and repetitions are its own.
"""

from __future__ import annotations

import functools
import http.client
import json
import select
import socket
import sys
import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from evalscope_evalflow.events import any_json
from evalscope_evalflow.worker.api_clients import is_loopback

_TELLS_FORMS = ("role", "type")  # keys whose values decide what others mean
_OURS = (b"content-length", b"accept-encoding")  # headers that are not taken over
_NOT_SENT = ("timeout", "extra_body")
_UNKNOWN_ARGUMENTS = ("extra_headers", "extra_query", "stream")
_MOST_FORMS = 200  # where requests have more, each is likely to be of another


@dataclass(frozen=True)
class _Form:
    """How requests of a form are sent.

    Attributes:
        keys: of the body, in their order.
        head: the request's first lines, without Content-Length.
        timeouts_s: by `connect`, `read` and `write`; None: for ever.
    """

    keys: tuple[str, ...]
    head: bytes
    timeouts_s: Mapping[str, float | None]


@dataclass(frozen=True)
class _Outcome:
    """What came of a request that is no plain answer.

    Attributes:
        status, headers, content: of the response; without meaning where there is an error.
        error: why there is no response.
        kind: the name of httpx's error for it.
    """

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    error: Exception | None = None
    kind: str = ""


class _Watch(threading.local):
    """Of the request that this thread sends by the openai package."""

    seen: tuple[Any, Any] | None = None  # httpx's request and response
    outcome: _Outcome | None = None  # is taken for that of its first attempt


class Connections:
    """Open connections to one server; as many as there are requests at once."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._idle: list[socket.socket] = []

    def ask(self, form: _Form, body: bytes) -> _Outcome:
        """Send a request, and wait for what comes of it."""
        kind = "Connect"
        try:
            connection = self._take(form.timeouts_s.get("connect"))
            kind = "Write"
            try:
                connection.settimeout(form.timeouts_s.get("write"))
                connection.sendall(b"%sContent-Length: %d\r\n\r\n%s" % (form.head, len(body), body))
                kind = "Read"
                connection.settimeout(form.timeouts_s.get("read"))
                response = http.client.HTTPResponse(connection, method="POST")
                response.begin()
                content = response.read()
                whole = response.isclosed() and not response.will_close
                found = _Outcome(response.status, tuple(response.getheaders()), content)
            except BaseException:
                connection.close()
                raise
        except TimeoutError as error:
            return _Outcome(error=error, kind=f"{kind}Timeout")
        except http.client.HTTPException as error:  # RemoteDisconnected, which is an OSError, too
            return _Outcome(error=error, kind="RemoteProtocolError")
        except OSError as error:
            return _Outcome(error=error, kind=f"{kind}Error")
        if whole:
            self._idle.append(connection)
        else:
            connection.close()
        return found

    def _take(self, timeout_s: float | None) -> socket.socket:
        while (connection := self._idle_one()) is not None:
            readable = select.poll()
            readable.register(connection, select.POLLIN)
            if not readable.poll(0):
                return connection
            connection.close()  # the server has ended it
        # Not in the handling of another error: what tells of errors looks at what came before them.
        made = socket.create_connection(self._address, timeout_s)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def _idle_one(self) -> socket.socket | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None


class QuickRequests:
    """The chat requests of one of the openai package's clients."""

    def __init__(self, client: Any) -> None:
        """
        Args:
            client: an OpenAI client whose base URL is plain HTTP on this machine.
        """
        from openai._models import construct_type
        from openai.types.chat import ChatCompletion

        self._construct: Callable[[Any], Any] = lambda data: construct_type(type_=ChatCompletion, value=data)
        self._stock = client.chat.completions.create
        self._transport = client._client._transport
        url = urlsplit(str(client.base_url))
        self._connections = Connections(str(url.hostname), url.port or 80)
        self._forms: dict[Hashable, _Form | None] = {}  # None: goes the package's own way
        self._here = _Watch()
        self._send = self._transport.handle_request

    def install(self, client: Any) -> None:
        """Have the client ask by them."""
        self._transport.handle_request = self._handle

        @functools.wraps(self._stock)  # EvalScope looks at its signature
        def create(**request: Any) -> Any:
            return self.create(request)

        client.chat.completions.create = create

    def create(self, request: dict[str, Any]) -> Any:
        """Ask for a completion.

        Args:
            request: the arguments of `client.chat.completions.create`.

        Raises:
            Exception: what that raises.
        """
        try:
            key = _form_of(request)
            known = key in self._forms
        except TypeError:  # not what JSON can hold
            return self._stock(**request)
        if not known:
            return self._learn(key, request) if len(self._forms) < _MOST_FORMS else self._stock(**request)
        form = self._forms[key]
        body = None if form is None else _body(form.keys, request)
        if form is None or body is None:
            return self._stock(**request)
        outcome = self._connections.ask(form, body)
        completion = self._completion(outcome)
        if completion is not None:
            return completion
        self._here.outcome = outcome
        try:
            return self._stock(**request)
        finally:
            self._here.outcome = None

    def _completion(self, outcome: _Outcome) -> Any:
        """A plain answer; None where it is anything else."""
        if outcome.error is not None or outcome.status != 200:
            return None
        headers = {name.lower(): value for name, value in outcome.headers}
        kind = headers.get("content-type", "").partition(";")[0]
        if not kind.endswith("json") or "content-encoding" in headers:
            return None
        try:
            data = any_json.loads(outcome.content)
        except ValueError:
            return None
        return self._construct(data) if isinstance(data, dict) else None

    def _learn(self, key: Hashable, request: dict[str, Any]) -> Any:
        self._here.seen = None
        completion = self._stock(**request)
        if self._here.seen is not None:
            sent, response = self._here.seen
            form = _form_from(sent)
            outcome = _Outcome(response.status_code, tuple(response.headers.items()), response.content)
            made = None if form is None else self._completion(outcome)
            same = (
                form is not None
                and made is not None
                and _body(form.keys, request) == sent.content
                and made.model_dump() == completion.model_dump()
            )
            self._forms[key] = form if same else None
            self._here.seen = None
        return completion

    def _handle(self, request: Any) -> Any:
        """What the client's transport does with a request: httpx's `handle_request`."""
        outcome, self._here.outcome = self._here.outcome, None
        if outcome is None:
            response = self._send(request)
            self._here.seen = request, response
            return response
        httpx: ModuleType = sys.modules[type(self._transport).__module__.partition(".")[0]]
        if outcome.error is not None:
            raise getattr(httpx, outcome.kind)(str(outcome.error), request=request) from outcome.error
        return httpx.Response(outcome.status, headers=list(outcome.headers), stream=httpx.ByteStream(outcome.content))


def quicken(model: Any) -> None:
    """Make a model's requests cheaper, where it is served on this machine; once is enough.

    Args:
        model: EvalScope's.
    """
    import openai

    client = getattr(getattr(model, "api", None), "client", None)
    if type(client) is not openai.OpenAI or not str(client.base_url).startswith("http://"):
        return
    with suppress(ImportError, AttributeError):  # of a version whose inner parts are others
        if "create" in vars(client.chat.completions):  # EvalScope gives one client to several benchmarks
            return
        if is_loopback(str(client.base_url)) and not client._client._mounts and not client._strict_response_validation:
            QuickRequests(client).install(client)


def _form_of(request: Mapping[str, Any]) -> Hashable:
    """What tells forms of requests apart.

    Raises:
        TypeError: a value is none that JSON has.
    """
    return tuple((name, value if name == "timeout" else _shape(value)) for name, value in request.items())


def _shape(value: Any) -> Hashable:
    kind: Any = type(value)
    found: Hashable = kind
    if kind is dict:
        return tuple(
            (name, item if name in _TELLS_FORMS and isinstance(item, str) else _shape(item))
            for name, item in value.items()
        )
    if kind is list:
        return frozenset(map(_shape, value))
    if value is None or kind in (str, int, float, bool):
        return found
    if kind.__module__.partition(".")[0] == "openai":  # stands for what is not given
        return found
    raise TypeError(kind)


def _body(keys: tuple[str, ...], request: Mapping[str, Any]) -> bytes | None:
    """The body of a request; None if it cannot be made here."""
    values = {name: value for name, value in request.items() if name not in _NOT_SENT}
    values.update(request.get("extra_body") or {})
    if any(values.get(name) for name in _UNKNOWN_ARGUMENTS):
        return None
    try:
        found = {name: values[name] for name in keys}
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (KeyError, TypeError, ValueError):  # half a character is a ValueError
        return None


def _form_from(sent: Any) -> _Form | None:
    """How the openai package has sent a request; None where that is not to be imitated."""
    try:
        keys = tuple(json.loads(sent.content))
    except (ValueError, TypeError):
        return None
    lines = [(name, value) for name, value in sent.headers.raw if name.lower() not in _OURS]
    names = {name.lower() for name, _ in lines}
    if sent.method != "POST" or b"transfer-encoding" in names or any(b"idempotency" in name for name in names):
        return None
    head = b"POST %s HTTP/1.1\r\n" % sent.url.raw_path
    head += b"".join(b"%s: %s\r\n" % line for line in lines) + b"Accept-Encoding: identity\r\n"
    return _Form(keys, head, dict(sent.extensions.get("timeout") or {}))
