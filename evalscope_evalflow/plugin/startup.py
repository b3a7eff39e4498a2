"""The start-up shim: waits for EvalScope to be imported, then attaches EvalFlow to it.

A `.pth` file puts one finder on `sys.meta_path` at every interpreter start of the environment. It imports nothing,
as even the smallest import there costs milliseconds, and reacts to `evalscope.run` alone: then it imports this
module, which is installed as a top-level module of its own (`evalscope_evalflow_startup`; see pyproject.toml).
From Python 3.15 on, the `.start` file (PEP 829) does the same by calling `install`. Nothing here ever raises.
`EVALFLOW_DISABLE=1` switches it off.
"""

import os
import sys

TARGET = "evalscope.run"
FINDER = "EvalFlowFinder"  # by name, as the one of the `.pth` file is made there


class EvalFlowFinder:
    """Finds `evalscope.run`, and nothing else."""

    @staticmethod
    def find_spec(name, path=None, target=None):  # type: ignore[no-untyped-def]
        return found() if name == TARGET else None  # type: ignore[no-untyped-call]


def found():  # type: ignore[no-untyped-def]
    """The spec of `evalscope.run`, as Python would find it without us; when it has been executed, we attach."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "__name__", "") != FINDER]
    if disabled():
        return None
    from importlib.util import find_spec

    spec = find_spec(TARGET)
    if spec is None or spec.loader is None:
        return spec
    loader = spec.loader
    inner = loader.exec_module

    def exec_module(module):  # type: ignore[no-untyped-def]
        loader.__dict__.pop("exec_module", None)
        inner(module)
        attach()

    try:
        loader.exec_module = exec_module  # type: ignore[method-assign]
    except AttributeError:
        _complain("its loader takes no hook; `import evalscope_evalflow` before the task attaches it")
    return spec


def attach() -> None:
    """Attach to the EvalScope that has just been imported. Any failure is a warning, never an error."""
    try:
        from evalscope_evalflow.plugin import seams

        seams.attach()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with us must not break `import evalscope`
        _complain(repr(error))


def disabled() -> bool:
    """Whether the user has switched us off."""
    return os.environ.get("EVALFLOW_DISABLE", "") not in ("", "0")


def install() -> None:
    """Wait for EvalScope; if it is there already, attach at once."""
    if disabled():
        return
    if TARGET in sys.modules:
        attach()
    elif not any(getattr(finder, "__name__", "") == FINDER for finder in sys.meta_path):
        sys.meta_path.insert(0, EvalFlowFinder)


def _complain(why: str) -> None:
    import warnings

    warnings.warn(f"EvalFlow could not attach to EvalScope: {why}", RuntimeWarning, stacklevel=2)
