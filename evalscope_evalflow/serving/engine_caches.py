"""Caches of compiled code that an engine would look for in its temporary folder, and so never find again.

An engine's TMPDIR is its own and is deleted with it. Most caches lie below the user's home (Triton, FlashInfer, vLLM,
PyTorch's extensions, the CUDA driver's JIT), but TorchInductor's lies in the temporary folder.
"""

from __future__ import annotations

from collections.abc import Mapping

from platformdirs import user_cache_path

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"


def cache_variables(env: Mapping[str, str]) -> dict[str, str]:
    """Variables by which an engine finds compiled code again; those that are set already stay as they are.

    Args:
        env: the engine's environment without them.
    """
    if env.get(INDUCTOR):
        return {}
    return {INDUCTOR: str(user_cache_path("evalflow") / "torchinductor")}
