"""Tells the daemon what nobody waits for: leases given back, ends of requests and of sessions.

One thread tells it in the order in which it was handed in, but for what must come after something
else: that waits, for a bounded time, and holds up nothing. Nothing is raised to the scheduler.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ..client import Client

Call = Callable[[Client], object]

# How long a saying waits for what must come before it: as long as a store may take.
WAIT_S_MAX = 60.0
# Sayings that wait; of more the oldest is left out, whose session and lease end soonest by time.
_WAITING_MAX = 1024


class Saying:
    """Something to be told."""

    def __init__(self, call: Call) -> None:
        self.tell = call

    def is_ready(self) -> bool:
        """Whether what must come before it is over. Asked on the teller's thread."""
        return True


class Teller:
    """Sayings in line, and the thread that tells them."""

    def __init__(self, tell: Callable[[Call], None], wait_s_max: float = WAIT_S_MAX) -> None:
        """`tell` makes a call to the daemon, and raises nothing."""
        self._tell = tell
        self._wait_s_max = wait_s_max
        # Each with the time from which on it is told whatever it waits for.
        self._waiting: deque[tuple[float, Saying]] = deque(maxlen=_WAITING_MAX)
        self._closed = False
        # Guards both; no call to the daemon is made under it.
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="terrace-tell", daemon=True)
        self._thread.start()

    def add(self, saying: Saying) -> None:
        with self._state:
            self._waiting.append((time.monotonic() + self._wait_s_max, saying))
            self._state.notify()

    def look(self) -> None:
        """Something is over that a saying may have waited for."""
        with self._state:
            self._state.notify()

    def waiting(self) -> list[Saying]:
        with self._state:
            return [saying for _, saying in self._waiting]

    def close(self) -> None:
        """What waits is not told any more."""
        with self._state:
            self._closed = True
            self._state.notify()

    def _run(self) -> None:
        while (saying := self._next()) is not None:
            self._tell(saying.tell)

    def _next(self) -> Saying | None:
        """Waits for the first that may be told; none once this is closed."""
        with self._state:
            while not self._closed:
                now = time.monotonic()
                for at, (until, saying) in enumerate(self._waiting):
                    if now >= until or saying.is_ready():
                        del self._waiting[at]
                        return saying
                oldest = self._waiting[0][0] if self._waiting else None
                self._state.wait(None if oldest is None else oldest - now)
            return None
