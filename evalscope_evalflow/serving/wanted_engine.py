"""The engine that a handle wants: whether a kept one is taken for it, and which weights it answers with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from evalscope_evalflow.config import DeployConfig, ModelConfig
from evalscope_evalflow.engines import Engine
from evalscope_evalflow.processes.registry import Registration
from evalscope_evalflow.serving.engine_failure import RetryableStartError
from evalscope_evalflow.serving.engine_identity import Identity, identity
from evalscope_evalflow.serving.server import Server
from evalscope_evalflow.serving.start_server import wait_until_usable
from evalscope_evalflow.serving.warm_pool import POOL
from evalscope_evalflow.serving.weight_swap import Weights, swap_weights, weights_of

if TYPE_CHECKING:
    from evalscope_evalflow.serving.deployment import Deployment


class WantedEngine:
    """What a handle wants, in all its starts.

    Attributes:
        identity: of the engine that it shall be; None: nobody will use it but this handle.
        weights: which weights the engine answers with, once it is ready; None: it cannot tell.
    """

    def __init__(
        self, engine: Engine, model: ModelConfig, deploy: DeployConfig, shared: bool, log: Callable[[str], None]
    ) -> None:
        """
        Args:
            engine: its kind.
            model: what it serves.
            deploy: how.
            shared: whether other models may use it, too.
            log: is called with what the user should know of kept engines.
        """
        self.identity: Identity | None = None
        self.weights: Weights | None = None
        self._engine, self._model, self._deploy, self._shared = engine, model, deploy, shared
        self._log = log
        self._swap_failed = False

    def take(self, entry: Registration, on_exit: Callable[[], None]) -> Deployment | None:
        """Begin a start: take an engine that is kept, or make room for a new one.

        Args:
            entry: the handle's, in the registry.
            on_exit: is called, in a thread, when the processes of one that is taken are gone.

        Returns:
            The handle of the one that is taken; None: a new one has to be started.
        """
        self.identity = self.weights = None
        if not (self._deploy.keep_alive_s or self._shared or POOL.engines()):
            return None
        self.identity = identity(self._engine, self._model, self._deploy)
        kept = POOL.take(self.identity, entry, on_exit, self._log, swaps=not self._swap_failed)
        if kept is not None:
            return kept
        POOL.make_room(self._engine, self._deploy, self.identity, self._log)
        return None

    def needs_swap(self, server: Server) -> bool:
        """Whether a server that was taken has another model's weights."""
        return server.launch.identity != self.identity

    def wait_until_usable(self, server: Server, kept: bool) -> None:
        """Wait until a server is ready with the model's weights, or has exited (`process.exited` tells which).

        Args:
            server: the server.
            kept: whether it was kept.

        Raises:
            RetryableStartError: a server that was kept is not what it should be; a new one has to be started.
            EngineError: it makes no progress, or serves something else.
        """
        patience = self._deploy.stall_timeout_s
        if not self.needs_swap(server):
            wait_until_usable(server, patience, self._log if kept else None)
            self.weights = weights_of(server)
            return
        assert self.identity is not None
        try:
            self.weights = swap_weights(server, self._model, self.identity, patience)
        except RetryableStartError as error:
            self._swap_failed = True
            self._log(str(error))
            raise
