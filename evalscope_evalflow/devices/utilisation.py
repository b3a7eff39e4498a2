"""How busy GPUs are while an engine is held on them: NVML is read once a second, in one thread for all engines."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from evalscope_evalflow.devices import nvml

READ_EVERY_S = 1.0


@dataclass(eq=False)
class _Watcher:
    names: tuple[str, ...]
    on_reading: Callable[[float], None]
    handles: list[Any] | None = None  # not looked for yet
    gone: bool = field(default=False)


class UtilisationSampler:
    """Reads the utilisation of devices that somebody watches.

    The thread begins with the first watcher and ends with the last one. It is a daemon, and nobody waits for it: a
    driver that hangs, or is not there, costs readings and nothing else.
    """

    def __init__(self, every_s: float = READ_EVERY_S) -> None:
        """
        Args:
            every_s: seconds between readings.
        """
        self._every_s = every_s
        self._lock = threading.Lock()
        self._watchers: list[_Watcher] = []
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def watch(self, names: Sequence[str], on_reading: Callable[[float], None]) -> Callable[[], None]:
        """Begin to read some devices.

        Args:
            names: as CUDA_VISIBLE_DEVICES has them.
            on_reading: is called in the sampler's thread with the mean over these devices, from 0 to 1; not where the
                driver does not say, as of MIG instances. It must not block.

        Returns:
            A function that ends it. Once more does no harm.
        """
        watcher = _Watcher(tuple(names), on_reading)
        with self._lock:
            self._watchers.append(watcher)
            if self._thread is None:
                self._wake = threading.Event()
                self._thread = threading.Thread(target=self._run, args=(self._wake,), daemon=True, name="evalflow-nvml")
                self._thread.start()

        def end() -> None:
            with self._lock:
                watcher.gone = True
                if watcher in self._watchers:
                    self._watchers.remove(watcher)
                if not self._watchers:  # the driver is let go of at once
                    self._thread = None
                    self._wake.set()

        return end

    def _run(self, wake: threading.Event) -> None:
        try:
            with nvml.driver() as library:
                while library is not None and not wake.is_set():
                    with self._lock:
                        watchers = list(self._watchers)
                    for watcher in watchers:
                        _read(library, watcher)
                    wake.wait(self._every_s)
        except nvml.DriverError:
            pass  # whoever needs the device says so
        finally:
            with self._lock:
                if self._wake is wake:
                    self._thread = None


def _read(library: Any, watcher: _Watcher) -> None:
    found = []
    with contextlib.suppress(library.NVMLError):
        if watcher.handles is None:
            count = library.nvmlDeviceGetCount()
            devices = (nvml.handle_of(library, name, count) for name in watcher.names)
            watcher.handles = [device[1] for device in devices if device is not None]
        for handle in watcher.handles:
            with contextlib.suppress(library.NVMLError):
                found.append(library.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
    if found and not watcher.gone:
        watcher.on_reading(sum(found) / len(found))


SAMPLER = UtilisationSampler()
