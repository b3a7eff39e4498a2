"""Puts a model's weights into an engine that runs with another's, and takes no weights that are not proven.

The engine's own side does it and proves it (`engines/inside/`). Whatever is not as expected here ends in a fresh start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from evalscope_evalflow.config import ModelConfig
from evalscope_evalflow.serving import http
from evalscope_evalflow.serving.engine_failure import RetryableStartError
from evalscope_evalflow.serving.engine_identity import CHECKPOINT, Identity, identity
from evalscope_evalflow.serving.readiness import MODELS_PATH, PROGRESS_EVERY_S, Progress, listed_models
from evalscope_evalflow.serving.server import ANSWER_TIMEOUT_S, Server

DEATH_S = 10.0  # between the end of an engine's connections and its own, at most
NO_LIMIT_S = 86_400.0  # of the request itself: whether the engine gets on is looked at beside it


@dataclass(frozen=True)
class Weights:
    """Which weights an engine answers with.

    Attributes:
        checkpoint: the folder that they were read from.
        fingerprint: of all tensors on the device; the same weights always have the same in one environment.
        tensors: how many those are, on all devices.
        took_from: the model whose weights were there before; empty: the engine was started with these.
        compared: tensors that were compared with the files, byte for byte.
        swap_s: seconds from the engine's being taken to its being ready; 0 after a start.
        read_s: seconds of them that reading the weights took.
        proof_s: seconds of them that served the proof alone.
    """

    checkpoint: str
    fingerprint: str
    tensors: int
    took_from: str = ""
    compared: int = 0
    swap_s: float = 0.0
    read_s: float = 0.0
    proof_s: float = 0.0


def new_control_key() -> str:
    """A key that opens an engine's control; only the process that owns the engine may have it."""
    return f"ec-{secrets.token_urlsafe(32)}"


def digest(control_key: str) -> str:
    """What the engine knows of the key."""
    return hashlib.sha256(control_key.encode()).hexdigest()


def weights_of(server: Server) -> Weights | None:
    """Which weights an engine has, as it has just been started; None: it cannot tell.

    An engine that cannot tell takes no others, either: it keeps no control key.
    """
    if not server.control_key:
        return None
    reply = _ask(server, "weights", {}, ANSWER_TIMEOUT_S)
    found = _workers(reply, "tensors")
    if not found:
        server.control_key = ""
        return None
    return Weights(str(server.model.path), _together(found), _sum(found, "tensors"))


def swap_weights(server: Server, model: ModelConfig, wanted: Identity, stall_timeout_s: float) -> Weights | None:
    """Let an engine go on with another model's weights, under that model's name.

    Args:
        server: the engine; nobody uses it.
        model: whose weights it shall have.
        wanted: the identity of an engine of that model.
        stall_timeout_s: seconds without progress after which it is given up.

    Returns:
        What it has now; None: its process was told to stop meanwhile.

    Raises:
        RetryableStartError: it did not work out, or something is not as it would be after a start. The engine must not
            be used any more.
    """
    began, before = time.monotonic(), server.model
    with _doubted(server, model):
        request = {"new": str(model.path), "old": str(before.path), "name": model.name}
        reply = _watch(server, request, stall_timeout_s)
        if server.process.stop_requested:
            server.process.exited.wait()
            return None
        found = _workers(reply, "tensors", "compared", "read_s", "proof_s")
        if reply.cut:
            server.process.exited.wait(DEATH_S)  # then it is known whether somebody has stopped it
            raise _Doubt("it died meanwhile")
        if not found:
            raise _Doubt("it does not say what it has done" if reply.ok else reply.message or "it says nothing")
        if identity(server.engine, model, server.asked)[CHECKPOINT] != wanted[CHECKPOINT]:
            raise _Doubt("the checkpoint has changed meanwhile")
        names = listed_models(http.request(f"{server.address.root}{MODELS_PATH}", **_options(server)).json)
        if names != [model.name]:
            raise _Doubt(f"it serves {', '.join(names) or 'nothing'}")
        _check_answer(server, model)
        server.model, server.launch = model, replace(server.launch, identity=wanted)
        return Weights(
            str(model.path),
            _together(found),
            _sum(found, "tensors"),
            before.name,
            _sum(found, "compared"),
            round(time.monotonic() - began, 3),
            round(max(worker["read_s"] for worker in found), 3),
            round(max(worker["proof_s"] for worker in found), 3),
        )


class _Doubt(Exception):
    """Why the weights are doubtful, as a clause."""


@contextlib.contextmanager
def _doubted(server: Server, model: ModelConfig) -> Iterator[None]:
    """A block in which a doubt becomes a fresh start."""
    try:
        yield
    except _Doubt as error:
        text = f"{server.name} could not take {model.name}'s weights: {error}; a new one is started"
        raise RetryableStartError(text) from None


def _ask(server: Server, action: str, body: dict[str, Any], timeout_s: float) -> http.Reply:
    url = f"{server.address.root}/evalflow/{action}"
    return http.request(url, api_key=server.control_key, body=body, timeout_s=timeout_s, direct=True)


def _watch(server: Server, request: dict[str, Any], stall_timeout_s: float) -> http.Reply:
    """Ask for the swap, and wait as long as the engine gets on.

    Raises:
        _Doubt: it does not.
    """
    replies: list[http.Reply] = []

    def ask() -> None:
        replies.append(_ask(server, "swap", request, NO_LIMIT_S))

    thread = threading.Thread(target=ask, name="evalflow-swap", daemon=True)  # it ends with the engine
    progress = Progress(server.process)
    thread.start()
    while thread.is_alive():
        thread.join(PROGRESS_EVERY_S)
        if thread.is_alive() and progress.stalled_s() > stall_timeout_s:
            raise _Doubt(f"it has made no progress for {stall_timeout_s:.0f} s")
    return replies[0] if replies else http.Reply(0, "the request failed")


def _workers(reply: http.Reply, *numbers: str) -> list[dict[str, Any]]:
    """What each of the engine's workers says: a fingerprint, and these numbers; empty where one does not."""
    body = reply.json if reply.ok else None
    found = body.get("workers") if isinstance(body, dict) else None
    return list(found) if isinstance(found, list) and all(_is_told(item, numbers) for item in found) else []


def _is_told(worker: Any, numbers: tuple[str, ...]) -> bool:
    if not isinstance(worker, dict) or not worker.get("fingerprint"):
        return False
    return all(isinstance(worker.get(name), (int, float)) for name in numbers)


def _check_answer(server: Server, model: ModelConfig) -> None:
    """Ask for one token with its log-probability.

    Raises:
        _Doubt: there is none, or it is no number.
    """
    body = {"model": model.name, "prompt": "1 + 1 =", "max_tokens": 1, "temperature": 0, "logprobs": 1}
    reply = http.request(f"{server.api_url}/completions", body=body, **_options(server))
    try:
        (found,) = reply.json["choices"][0]["logprobs"]["token_logprobs"]
    except (TypeError, KeyError, IndexError, ValueError):
        raise _Doubt(f"it answers no question ({reply.status}): {reply.message}") from None
    if not isinstance(found, (int, float)) or not math.isfinite(found):
        raise _Doubt(f"the log-probability of its answer is {found}")


def _options(server: Server) -> dict[str, Any]:
    return {"api_key": server.address.api_key, "timeout_s": ANSWER_TIMEOUT_S, "direct": True}


def _together(workers: list[dict[str, Any]]) -> str:
    """One fingerprint of those of several workers."""
    found = [str(worker["fingerprint"]) for worker in workers]
    return found[0] if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _sum(workers: list[dict[str, Any]], name: str) -> int:
    return sum(int(worker[name]) for worker in workers)
