"""Who uses an engine: runs hold leases on it, several at once where it serves several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Lease:
    """One run's use of an engine.

    Attributes:
        model: the name under which the run asks it.
        run_id: the run.
        on_exit: is called, in a thread, at most once, when the engine's processes are gone.
        taken: when it was taken; a reading of time.monotonic().
        returned: when it was given back; None: it is held.
        device_s: its share of the device-seconds so far: those that several leases are held in are split evenly.
    """

    model: str
    run_id: str
    on_exit: Callable[[], None] | None = None
    taken: float = field(default_factory=time.monotonic)
    returned: float | None = None
    device_s: float = 0.0
    notified: bool = False


class Leases:
    """All leases on one engine. Any thread may take and give back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[Lease] = []
        self._devices = 1
        self._since = 0.0  # when the set of leases, or the number of devices, last changed

    def use_devices(self, count: int) -> None:
        """From now on the engine runs on so many devices; without any it counts as one, the CPU."""
        with self._lock:
            self._account()
            self._devices = max(1, count)

    def take(self, model: str, run_id: str, on_exit: Callable[[], None] | None = None) -> Lease:
        """Take a lease."""
        with self._lock:
            self._account()
            lease = Lease(model, run_id, on_exit, self._since)
            self._held.append(lease)
            return lease

    def give_back(self, lease: Lease) -> bool:
        """Give a lease back; once more does no harm.

        Returns:
            Whether nobody holds one any more.
        """
        with self._lock:
            self._account()
            if lease in self._held:
                self._held.remove(lease)
                lease.returned = self._since
            return not self._held

    def give_back_all(self) -> None:
        """Give back whatever is held: the engine is gone, or kept."""
        for lease in self.held:
            self.give_back(lease)

    @property
    def held(self) -> list[Lease]:
        """Those that are held now."""
        with self._lock:
            return list(self._held)

    def notify_exit(self) -> None:
        """Tell every holder, once, that the engine is gone."""
        with self._lock:
            leases = [lease for lease in self._held if not lease.notified]
            for lease in leases:
                lease.notified = True
        for lease in leases:
            if lease.on_exit is not None:
                lease.on_exit()

    def _account(self) -> None:
        """Split what has been used since the last change; the lock is held."""
        now = time.monotonic()
        for lease in self._held:
            lease.device_s += (now - self._since) * self._devices / len(self._held)
        self._since = now
