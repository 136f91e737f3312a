"""Calls of the scheduler's side to the daemon, from threads of its own.

A daemon that did not answer is left alone for a while, so that one that hangs costs a few calls
their time and the others nothing. What goes wrong is noted for the operator; nothing is raised.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from .. import errors
from ..answers import EnvelopeAnswer, Outcome, OutcomeStatus
from ..client import Client

_log = logging.getLogger("terrace_kv.vllm")

Call = Callable[[Client], object]

# How long a daemon that is busy is left alone at least, and how often one that is away is looked
# for.
_BUSY_S_MIN, _LOOK_S = 0.05, 0.1
# Different notes of one kind that are said, and how long until any may be said again.
_NOTES_MAX, _NOTES_S = 256, 3600.0


class Breaker:
    """Leaves a daemon alone that did not answer."""

    def __init__(self, pause_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause_s = pause_s
        self._clock = clock
        self._closed_until = 0.0

    def shut_s(self) -> float:
        """How long it is still left alone."""
        return max(0.0, self._closed_until - self._clock())

    def failed(self, pause_s: float | None = None) -> None:
        """It did not answer; or was busy, and named the pause itself."""
        pause_s = self._pause_s if pause_s is None else max(pause_s, _BUSY_S_MIN)
        self._closed_until = max(self._closed_until, self._clock() + pause_s)


class Notes:
    """Notes of one kind, each said once an hour."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.said: set[str] = set()
        self._since = clock()
        # Guards both.
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            if self._clock() - self._since >= _NOTES_S:
                self.said, self._since = set(), self._clock()
            if text in self.said or len(self.said) >= _NOTES_MAX:
                return
            self.said.add(text)
        _log.warning("%s", text)


class Caller:
    """Makes calls, and says what became of them."""

    def __init__(self, client: Client, pause_s: float) -> None:
        self._client = client
        self.breaker = Breaker(pause_s)
        # Requests name what they like in hints: their notes leave room to those of the daemon.
        self.hints, self._troubles = Notes(), Notes()

    def epoch(self) -> int | None:
        return self._client.epoch

    def away_s(self) -> float:
        """In how long to look for a daemon; 0: one is there, and answered when last asked."""
        return self.breaker.shut_s() if self._client.connected else _LOOK_S

    def call(self, call: Call) -> errors.TerraceError | None:
        """Gives why the call was not carried out, as far as is known."""
        if self.away_s():
            return errors.DaemonGone("it is left alone")
        try:
            self._heed(call(self._client))
        except (errors.TimedOut, errors.Busy) as error:
            self.breaker.failed(error.retry_after_s if isinstance(error, errors.Busy) else None)
            self._troubles.say(f"the daemon is slow, serving on without it for a while: {error}")
            return error
        except errors.TerraceError as error:
            self._troubles.say(f"serving on without the daemon: {error}")
            return error
        except Exception:
            # A defect here must not take the engine down.
            _log.exception("asking the daemon failed")
        return None

    def _heed(self, answer: object) -> None:
        """Whoever said a hint is not there to read what became of it; an operator may be."""
        outcomes = answer.outcomes if isinstance(answer, EnvelopeAnswer) else answer
        for one in outcomes if isinstance(outcomes, tuple) else ():
            if isinstance(one, Outcome) and one.status is OutcomeStatus.REJECTED:
                self.hints.say(f"a hint was rejected: {one.message}")
