"""Tells the daemon what goes beside lookups, loads and stores: hints, leases given back, ends of
requests and of sessions.

::

    handed in --> held, while what must come before it is under way --> in line --> told

One thread tells what is in line, in order; what is held waits for a bounded time, and holds up
nothing. What a daemon that is busy or away did not take is told when it is back, unless it is too
late by then. Nothing is raised to the scheduler.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .calling import Call
from .jobs import STORE_S_MAX

# How long a saying waits for what must come before it: until a store is over in any case.
WAIT_S_MAX = 2 * STORE_S_MAX
# How long it may then be in line. A daemon that is away for longer has mostly lost what it knew.
AGE_S_MAX = 120.0
# Sayings held, and in line; of more the oldest goes, whose session and lease end soonest by time.
WAITING_MAX = 1024


class Saying:
    """Something to be told."""

    def __init__(self, call: Call, *, repeatable: bool = True) -> None:
        """`repeatable`: it does no harm to say it again where no answer came the first time."""
        self.tell = call
        self.repeatable = repeatable

    def is_ready(self) -> bool:
        """Whether what must come before it is over. Asked under the teller's lock."""
        return True

    def over(self) -> None:
        """It is told, or will not be. Called under the teller's lock."""


@dataclass(frozen=True, eq=False)
class _Entry:
    saying: Saying
    # Held: when it is put in line whatever it waits for. In line: when it is too late for it.
    until: float


class Teller:
    """Sayings in line, and the thread that tells them."""

    def __init__(
        self,
        tell: Callable[[Saying], bool],
        away_s: Callable[[], float],
        *,
        wait_s_max: float = WAIT_S_MAX,
        age_s_max: float = AGE_S_MAX,
        waiting_max: int = WAITING_MAX,
    ) -> None:
        """`tell` says whether a saying is to be told again, `away_s` in how long to look for the
        daemon (0: it is there); neither raises."""
        self._tell = tell
        self._away_s = away_s
        self._wait_s_max, self._age_s_max = wait_s_max, age_s_max
        self._waiting_max = waiting_max
        self._held: deque[_Entry] = deque()
        self._line: deque[_Entry] = deque()
        self._dropped = 0
        # Once it closes: until when it goes on.
        self._close_at: float | None = None
        # Guards all of these; no call to the daemon is made under it.
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="terrace-tell", daemon=True)
        self._thread.start()

    def add(self, saying: Saying) -> None:
        now = time.monotonic()
        with self._state:
            if saying.is_ready():
                self._put(self._line, _Entry(saying, now + self._age_s_max))
            else:
                self._put(self._held, _Entry(saying, now + self._wait_s_max))
            self._state.notify_all()

    def told(self, sayings: Sequence[Saying], patience_s: float) -> bool:
        """Waits until these are out of the line, or there is no daemon to tell them to."""

        def in_line() -> bool:
            return any(entry.saying in sayings for entry in self._line)

        def in_vain() -> bool:
            return self._close_at is not None or self._away_s() > 0

        with self._state:
            self._state.wait_for(lambda: in_vain() or not in_line(), patience_s)
            return not in_line()

    def look(self) -> None:
        """Something is over that a saying may have waited for."""
        with self._state:
            self._state.notify_all()

    def waiting(self) -> list[Saying]:
        with self._state:
            return [entry.saying for entry in (*self._held, *self._line)]

    def take_dropped(self) -> int:
        """How many were too late or too many since the last take."""
        with self._state:
            dropped, self._dropped = self._dropped, 0
            return dropped

    def close(self, patience_s: float = 0.0) -> None:
        """Tells what waits, ready or not, as far as there is time and a daemon for it."""
        with self._state:
            self._close_at = time.monotonic() + patience_s
            self._state.notify_all()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            again = self._tell(entry.saying)
            with self._state:
                # Others may have pushed it out meanwhile.
                if not again and entry in self._line:
                    self._line.remove(entry)
                    entry.saying.over()
                self._state.notify_all()

    def _next(self) -> _Entry | None:
        """Waits for the first in line that may be told; none once this is closed."""
        with self._state:
            while True:
                now, away_s = time.monotonic(), self._away_s()
                self._sort(now)
                may_tell = bool(self._line) and not away_s
                if self._close_at is not None and (now >= self._close_at or not may_tell):
                    return None
                if may_tell:
                    return self._line[0]
                self._state.wait(self._pause_s(now, away_s))

    def _sort(self, now: float) -> None:
        """What is held no longer comes after all that was in line by then."""
        closes = self._close_at is not None
        held = list(self._held)
        for entry in [one for one in held if closes or now >= one.until or one.saying.is_ready()]:
            self._held.remove(entry)
            self._put(self._line, _Entry(entry.saying, now + self._age_s_max))
        while self._line and now >= self._line[0].until:
            self._drop(self._line)

    def _put(self, entries: deque[_Entry], entry: _Entry) -> None:
        entries.append(entry)
        if len(entries) > self._waiting_max:
            self._drop(entries)

    def _drop(self, entries: deque[_Entry]) -> None:
        """The oldest will not be told."""
        entries.popleft().saying.over()
        self._dropped += 1

    def _pause_s(self, now: float, away_s: float) -> float | None:
        if self._line:
            return away_s
        return self._held[0].until - now if self._held else None
