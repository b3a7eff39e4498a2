"""What entering and leaving a deployment's `with` block does."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from evalscope_evalflow.errors import EngineError, EvalFlowError, Stopped
from evalscope_evalflow.serving.endpoint import Endpoint
from evalscope_evalflow.serving.engine_state import EngineState

if TYPE_CHECKING:
    from evalscope_evalflow.serving.deployment import Deployment

DEATH_SEEN_S = 0.5  # an engine's death is known here within a tenth of a second


def enter(deployment: Deployment) -> Endpoint:
    """Start the engine and wait until it is ready; release it where that fails.

    Raises:
        EngineError: it did not become ready.
        Stopped: by `evalflow stop`.
    """
    try:
        deployment.start()
        endpoint = deployment.wait_ready()
        for note in deployment.notes:
            warnings.warn(note, RuntimeWarning, stacklevel=3)
        return endpoint
    except BaseException as error:
        deployment.release()
        if isinstance(error, EvalFlowError):  # what is to be done stands in the message, not in our frames
            raise error.with_traceback(None) from None
        raise


def leave(deployment: Deployment, error: BaseException | None) -> None:
    """Keep or release the engine.

    Args:
        deployment: the engine.
        error: what ended the block; None: nothing did.

    Raises:
        EngineError: it has ended while it was in use, or something of it is left.
        Stopped: `evalflow stop` has ended it. An error of the block's own goes before either.
    """
    if error is None and deployment.keep() is not None:
        return
    name = deployment.engine.name
    ended = _ended_meanwhile(deployment, DEATH_SEEN_S if isinstance(error, Exception) else 0)
    released = deployment.release()
    for line in released.warnings():
        warnings.warn(f"{name} was ended, but {line}", RuntimeWarning, stacklevel=3)
    if ended is not None and error is not None:  # which is most likely what came of it
        warnings.warn(str(ended).splitlines()[0], RuntimeWarning, stacklevel=3)
    elif ended is not None:
        raise ended
    if not released and error is None:
        raise EngineError(f"{name} was ended, but " + "; ".join(released.problems()))


def _ended_meanwhile(deployment: Deployment, wait_s: float) -> EvalFlowError | None:
    """Why the engine has ended while somebody used it; None if it has not.

    Args:
        deployment: the engine.
        wait_s: how long to wait for that, where somebody may have seen it first, by an answer that did not come.
    """
    process = None if deployment.state is EngineState.RELEASED else deployment.process
    if process is None or process.stop_requested or not process.exited.wait(wait_s):
        return None
    if deployment.was_stopped:
        return Stopped(f"{deployment.engine.name} was stopped by `evalflow stop` while it was in use")
    return deployment.failure("while it was in use")
