"""Sends every request that EvalScope makes to an API that runs elsewhere through that API's circuit.

EvalScope makes a client for each model and each judge, and each of its requests passes `Model.generate`, and inside it
`retry_call`. Both are replaced here: the first says which circuit a request belongs to, the second decides when it is
sent, and how often. An engine that this run has started is left out: it is watched by the parent.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext, suppress
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from evalscope_evalflow.events.api_events import JUDGE, MODEL
from evalscope_evalflow.events.base import Event
from evalscope_evalflow.worker.api_probe import Api, Fault, GivenUp, ask_for_one_token, fault_of
from evalscope_evalflow.worker.circuit import LONGEST_WAIT_S, Circuit, Pace, Turn
from evalscope_evalflow.worker.request_failures import classify, error_reason, retry_after, run_error
from evalscope_evalflow.worker.request_slots import RequestSlots

DEFAULT_TRIES = 3  # EvalScope's own, where a task says None
FREE_OUTAGES = 3  # times that a request may meet an outage at no cost: more, and it may be what brings the API down
LOOK_EVERY_S = 0.2

_circuit: contextvars.ContextVar[Circuit | None] = contextvars.ContextVar("evalflow_circuit", default=None)


class ApiCalls:
    """The circuits of a worker, one for each API and model."""

    def __init__(
        self,
        pace: Pace,
        emit: Callable[[Event], None],
        model_url: Callable[[], str | None],
        *,
        own_engine: bool,
        own_judge: bool = False,
        slots: RequestSlots | None = None,
        judge_slots: RequestSlots | None = None,
    ) -> None:
        """
        Args:
            pace: how soon things are done.
            emit: reports an event.
            model_url: gives the base URL of the model under evaluation; None until it is known.
            own_engine: whether that is an engine of this run's.
            own_judge: whether the judge is an engine of this sweep's.
            slots: limit the requests at once to the model under evaluation; None: nothing but its concurrency does.
            judge_slots: likewise for its judges.
        """
        self._judging, self._own_judge = False, own_judge
        self._slots, self._judge_slots = slots, judge_slots
        self._pace, self._emit, self._model_url, self._own_engine = pace, emit, model_url, own_engine
        self._circuits: dict[tuple[str, str, str], Circuit] = {}
        self._making = threading.Lock()

    def install(self) -> None:
        """Have EvalScope's clients ask through circuits."""
        from evalscope.api.model.model import Model

        generate, generate_async = Model.generate, Model.generate_async

        def through(model: Any, *args: Any, **options: Any) -> Any:
            token = _circuit.set(self.of(model.api))
            try:
                return generate(model, *args, **options)
            finally:
                _circuit.reset(token)

        async def through_async(model: Any, *args: Any, **options: Any) -> Any:
            token = _circuit.set(self.of(model.api))
            try:
                return await generate_async(model, *args, **options)
            finally:
                _circuit.reset(token)

        Model.generate, Model.generate_async = through, through_async

    def begin_judging(self) -> None:
        """Only judges are asked from now on; one that was given up before is tried again."""
        with self._making:
            self._judging = True
            self._circuits.clear()

    def of(self, api: Any) -> Circuit | None:
        """The circuit of one of EvalScope's API objects; None where it needs none."""
        url, client = getattr(api, "base_url", None), getattr(api, "client", None)
        if not url or client is None:
            return None
        is_model = not self._judging and _same(url, self._model_url())
        if self._own_engine if is_model else self._own_judge:
            return None
        key = role, _, name = MODEL if is_model else JUDGE, url, str(getattr(api, "model_name", ""))
        with self._making:
            if key not in self._circuits:
                self._circuits[key] = Circuit(
                    Api(role, public(url), name),
                    lambda patience_s: ask_for_one_token(api, patience_s),
                    self._emit,
                    self._pace,
                    self._slots if is_model else self._judge_slots,
                )
                for kind in type(api).__mro__:
                    _route(sys.modules[kind.__module__])
            if client.max_retries:  # whether and when it is asked again is for the circuit to decide
                client.max_retries = 0
                with suppress(AttributeError):
                    api._async_client_kwargs["max_retries"] = 0
            return self._circuits[key]


def _route(module: ModuleType) -> None:
    """Have a module of EvalScope's clients send requests by `call`, where they belong to a circuit."""
    if not hasattr(module, "retry_call") or hasattr(module.retry_call, "routed"):
        return
    retry, retry_async = module.retry_call, module.async_retry_call

    def routed(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        circuit = _circuit.get()
        return retry(function, *args, **options) if circuit is None else call(circuit, function, *args, **options)

    async def routed_async(function: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        circuit = _circuit.get()
        if circuit is None:
            return await retry_async(function, *args, **options)
        return await call_async(circuit, function, *args, **options)

    routed.routed = True  # type: ignore[attr-defined]
    module.retry_call, module.async_retry_call = routed, routed_async  # type: ignore[attr-defined]


class _Tries:
    """How often one request may be sent."""

    def __init__(
        self, circuit: Circuit, total: int | None, interval_s: float, final: tuple[type[Exception], ...]
    ) -> None:
        self._circuit, self._left = circuit, DEFAULT_TRIES if total is None else max(1, total)
        self._interval_s, self._final = interval_s or 0.0, final
        self._free, self._waited_s = FREE_OUTAGES, 0.0

    def after(self, turn: Turn, error: Exception) -> float:
        """Seconds after which it may be sent again.

        Raises:
            Exception: it is not sent again.
        """
        circuit, (kind, transient) = self._circuit, classify(error)
        seconds = retry_after(error)
        if kind == "run":
            circuit.failed(turn, Fault.REQUEST, "")
            if circuit.api.role == JUDGE:  # a model's ends the run
                circuit.refuse("judge_refuses", run_error(error))
            raise error
        if seconds is not None and transient:
            circuit.busy(turn, seconds, error_reason(error))
            self._waited_s += seconds
            if seconds >= 1 and self._waited_s <= LONGEST_WAIT_S:
                return 0.0
        elif circuit.failed(turn, fault_of(error, kind), error_reason(error)) is Fault.API and self._free:
            self._free -= 1
            return 0.0
        self._left -= 1
        status = getattr(error, "status_code", None)
        if not self._left or isinstance(error, self._final) or (isinstance(status, int) and not transient):
            raise error
        return self._interval_s


def call(circuit: Circuit, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """EvalScope's `retry_call`, with a circuit."""
    tries, call_options = _tries(circuit, options)
    while True:
        circuit.wait()
        with circuit.slots.one() if circuit.slots else nullcontext():
            turn = circuit.try_enter(tries)
            if turn is None:  # it went down while a slot was waited for, which another model may use
                continue
            try:
                result = _unless_given_up(circuit, turn, lambda: function(*args, **call_options))
            except GivenUp:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                failure = error
            else:
                circuit.succeeded(turn)
                return result
        threading.Event().wait(tries.after(turn, failure))


async def call_async(circuit: Circuit, function: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
    """EvalScope's `async_retry_call`, with a circuit; its loop is never blocked."""
    tries, call_options = _tries(circuit, options)
    while True:
        while not circuit.is_open():
            await asyncio.sleep(LOOK_EVERY_S)
        async with _slot(circuit):
            turn = circuit.try_enter(tries)
            if turn is None:
                continue
            task = asyncio.ensure_future(function(*args, **call_options))
            try:
                while not task.done():
                    await asyncio.wait({task}, timeout=LOOK_EVERY_S)
                    end = circuit.end()
                    if end is not None and not task.done():
                        task.cancel()
                        raise end
                result = task.result()
            except GivenUp:
                raise
            except asyncio.CancelledError:  # by an agent that has waited for long enough
                task.cancel()
                circuit.abandon(turn)
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                failure = error
            else:
                circuit.succeeded(turn)
                return result
        await asyncio.sleep(await asyncio.to_thread(tries.after, turn, failure))


@asynccontextmanager
async def _slot(circuit: Circuit) -> AsyncIterator[None]:
    """A block with one of the circuit's slots, where it has any; the loop goes on while it waits."""
    if circuit.slots is None:
        yield
        return
    slot = circuit.slots.one()
    await asyncio.to_thread(slot.__enter__)
    try:
        yield
    finally:
        slot.__exit__(None, None, None)


def _tries(circuit: Circuit, options: dict[str, Any]) -> tuple[_Tries, dict[str, Any]]:
    """What `retry_call` is told of tries, and what the function itself is."""
    rest = dict(options)
    total, interval_s = rest.pop("retries", DEFAULT_TRIES), rest.pop("sleep_interval", 0)
    return _Tries(circuit, total, interval_s, tuple(rest.pop("no_retry_exceptions", ()))), rest


def _unless_given_up(circuit: Circuit, turn: Turn, once: Callable[[], Any]) -> Any:
    """What a request comes to, in a thread that can be left: no client can be told to stop waiting for a server."""
    context, future = contextvars.copy_context(), Future[Any]()

    def work() -> None:
        try:
            future.set_result(context.run(once))
        except BaseException as error:  # noqa: BLE001 - it is raised where the request is waited for
            future.set_exception(error)
        turn.over.set()

    threading.Thread(target=work, daemon=True, name="evalflow-request").start()
    turn.over.wait()
    end = circuit.end()
    if not future.done() and end is not None:
        raise end
    return future.result()


def public(url: str) -> str:
    """A URL without user, password and query, any of which may be a key."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _same(one: str, other: str | None) -> bool:
    return other is not None and one.rstrip("/") == other.rstrip("/").removesuffix("/chat/completions")
