"""What answers were made with, beside the settings: versions of the engine and of what is below it, and the devices.

Nothing of it keeps saved answers from being used. It is recorded, so that answers of different origin can be told
apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from evalscope_evalflow.config.environment import Environment
from evalscope_evalflow.devices import nvml
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.serving.server import Server

PROBE_TIMEOUT_S = 60.0
# For an environment whose packages its interpreter alone finds, such as a system's own. Imports none of them.
_PROBE = """\
import importlib.metadata, importlib.util, json, sys
try:
    version = importlib.metadata.version(sys.argv[1])
except importlib.metadata.PackageNotFoundError:
    version = None
spec = importlib.util.find_spec("torch")
print(json.dumps([version, spec.origin if spec else None]))
"""
_TORCH = re.compile(r"^(__version__|cuda|hip)\b[^=\n]*= *'([^']+)'", re.MULTILINE)


def engine_facts(engine: Engine, server: Server) -> dict[str, Any]:
    """What an engine that was started runs with; whatever is not known is left out.

    Returns:
        `engine`, `version`, `env`, `torch`, `cuda` or `hip` (that PyTorch was built for), `driver`, `driver_cuda`,
        `gpus` (a name for each), `tensor_parallel`, `data_parallel`, `max_num_seqs`.
    """
    deploy = server.deploy
    env = Environment.find(deploy.env)
    version, torch = engine.version(env), _torch_file(env)
    if version is None and engine.distribution:
        version, torch = _probe(env, engine.distribution)
    facts: dict[str, Any] = {
        "engine": engine.name,
        "version": version,
        "env": str(env.prefix),
        **(_torch_versions(torch) if torch else {}),
        "gpus": server.devices.products
        if engine.uses_devices(deploy) and deploy.devices not in ("", nvml.NO_DEVICE)
        else [],
        "tensor_parallel": deploy.tensor_parallel,
        "data_parallel": deploy.data_parallel,
        "max_num_seqs": engine.max_num_seqs(deploy),
    }
    if facts["gpus"]:
        facts.update(nvml.driver_versions())
    return {name: value for name, value in facts.items() if value not in (None, [])}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs of what answers were made with, such as "vllm 0.32.0, and now 0.33.0"."""
    changed = []
    for name in ("version", "torch", "gpus"):
        old, new = before.get(name), now.get(name)
        if old and new and old != new:
            what = before.get("engine", "the engine") if name == "version" else name
            changed.append(f"{what} {_words(old)}, and now {_words(new)}")
    return changed


def _words(value: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, value))) if isinstance(value, list) else str(value)


def _torch_file(env: Environment) -> Path | None:
    """The file in which PyTorch has its versions; None if it is not found."""
    files = (folder / "torch" / "version.py" for folder in env.package_folders)
    return next((file for file in files if file.is_file()), None)


def _torch_versions(file: Path) -> dict[str, str]:
    """Versions of PyTorch, and of what it was built for; it is not imported."""
    names = {"__version__": "torch", "cuda": "cuda", "hip": "hip"}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return {names[name]: value for name, value in _TORCH.findall(file.read_text(encoding="utf-8"))}
    return {}


def _probe(env: Environment, distribution: str) -> tuple[str | None, Path | None]:
    """(a distribution's version, PyTorch's file) by the environment's interpreter; None for what cannot be had."""
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        done = subprocess.run(
            [str(env.python), "-c", _PROBE, distribution],
            env=env.variables(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            cwd="/",
            check=True,
        )
        version, torch = json.loads(done.stdout)
        return version, Path(torch).with_name("version.py") if torch else None
    return None, None
