"""Runs in vLLM's API server: what the owner of the engine asks for at `/evalflow/…`, behind the gate of the launcher.

It is imported by the engine's interpreter, which need not have EvalFlow.
"""

from __future__ import annotations

import time
from typing import Any


async def answer(app: Any, action: str, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked.

    Args:
        app: vLLM's application.
        action: "weights": tell which weights there are; "swap": put others in their place.
        request: for "swap" `new` and `old`, folders of checkpoints, and `name`, under which the new one is served.

    Returns:
        What each worker says, under `workers`, and seconds.

    Raises:
        ValueError: there is no such action.
        RuntimeError: it failed; the weights are doubtful from now on.
    """
    began = time.monotonic()
    client = app.state.engine_client
    if action == "weights":
        workers = await client.collective_rpc("evalflow_fingerprint")
    elif action == "swap":
        workers = await client.collective_rpc("evalflow_swap", args=(request["new"], request["old"]))
        await _forget(client)
        models = app.state.openai_serving_models.base_model_paths
        models[:] = [type(models[0])(name=request["name"], model_path=request["new"])]
    else:
        raise ValueError(f"there is no {action!r} here")
    return {"workers": workers, "seconds": time.monotonic() - began}


async def _forget(client: Any) -> None:
    """Empty what was computed with other weights."""
    if not await client.reset_prefix_cache():
        raise RuntimeError("the cache of prefixes could not be emptied")
    await client.reset_mm_cache()
    await client.reset_encoder_cache()
