"""The error that explains why an engine does not serve any more."""

from __future__ import annotations

import shlex
from pathlib import Path

from evalscope_evalflow.errors import EngineError
from evalscope_evalflow.processes.exit_reason import Exit
from evalscope_evalflow.serving.diagnosis import diagnose_process
from evalscope_evalflow.serving.health import Hang, Symptom, Unhealthy
from evalscope_evalflow.serving.server import Server


class RetryableStartError(EngineError):
    """A start that may succeed a moment later, such as after somebody took the port just before it was bound."""


def start_failure(server: Server, error: EngineError) -> EngineError:
    """A start's error. One of a process that stood by is no proof that a fresh one would fail: it is tried again."""
    stopped = server.process.stopped or server.process.stop_requested
    return error if server.stood_by_s is None or stopped else RetryableStartError(str(error))


def engine_failure(
    server: Server, when: str, after_s: float, log: Path, cause: Symptom | Exit | None = None
) -> EngineError:
    """Explain a failure.

    Args:
        server: the engine's.
        when: such as "while it was starting".
        after_s: seconds since its start.
        log: where its output is.
        cause: what was seen of it; default: how its process ended.
    """
    name, process = server.engine.name, server.process
    found = diagnose_process(process, server.engine)
    after, hint = f"after {after_s:.0f} s", found.hint
    if isinstance(cause, Hang):  # nothing in its log is the reason
        first, hint = f"{name} {cause} ({when}, {after})", ""
    elif isinstance(cause, Unhealthy):
        first = f"{name} {cause} ({when}, {after}): {found.cause}"
    else:
        others = server.devices.others(process.tree) if found.device_memory else []
        if others:
            hint = f"Others use it as well: {'; '.join(others)}. {hint}"
        code = process.exit_code if cause is None else cause.code
        first = f"{name} stopped {when} (exit code {code}, {after}): {found.cause}"
    lines = [
        first,
        *([f"    {hint}"] if hint else []),
        "  its last lines:",
        *(f"    {line}" for line in found.tail),
        f"  log: {log}",
        f"  command: {' '.join([*server.launch.variables, shlex.join(server.launch.argv)])}",
    ]
    return (RetryableStartError if found.again else EngineError)("\n".join(lines))
