"""Asks the daemon about requests without making the scheduler wait.

Each request's question runs on a thread of its own pool, after what the request says, and is
answered, or given up, within a bound. Raises nothing to the scheduler.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from .. import errors
from ..answers import Lookup, Run, Tier
from ..client import Client
from .calling import Caller
from .hints import RequestHints
from .settings import Settings
from .telling import Saying, Teller

_THREADS = 4
# Questions that wait for a thread; more are not asked.
_WAITING_MAX = 512
# An answer is stale once its lease has less time left than this; one that holds nothing, once it is
# older than this: others may have stored what it lacks.
_LEASE_S_MIN, _AGE_S_MAX = 2.0, 10.0


@dataclass(frozen=True)
class Found:
    """What a lookup found, from the chain's root on."""

    blocks: int
    # Stretches of blocks with the same fastest tier, in order.
    runs: tuple[Run, ...]
    # Blocks that load no slower than they are computed.
    worthy_blocks: int
    # None: nothing is held.
    lease_until_unix_s: float | None
    # The answer itself, to give its lease back; None where nothing was answered.
    answer: Lookup | None = None

    def tiers(self, start: int, end: int) -> dict[Tier, int]:
        """How many of the blocks `start` to before `end` each tier has."""
        counts: dict[Tier, int] = {}
        first = 0
        for run in self.runs:
            inside = min(first + run.blocks, end) - max(first, start)
            if inside > 0:
                counts[run.tier] = counts.get(run.tier, 0) + inside
            first += run.blocks
        return counts


NOTHING = Found(0, (), 0, None)


def found_of(answer: Lookup) -> Found:
    """The answer, as the scheduler needs it."""
    worthy = answer.matched_blocks
    if answer.plan.recompute_us is not None:
        worthy = min(worthy, answer.plan.load_blocks)
    until = answer.lease_expires_unix_us / 1e6 if answer.lease_id is not None else None
    return Found(answer.matched_blocks, answer.runs, worthy, until, answer)


class Question:
    """One request's lookup under way."""

    def __init__(self, give_up_at: float) -> None:
        self._give_up_at = give_up_at
        self._found: Found | None = None
        self._stale_at = give_up_at + _AGE_S_MAX

    def answered(self, found: Found) -> None:
        good_s = _AGE_S_MAX
        if found.lease_until_unix_s is not None:
            good_s = found.lease_until_unix_s - time.time() - _LEASE_S_MIN
        self._stale_at = time.monotonic() + good_s
        # Last, and one assignment: no reader sees half of it.
        self._found = found

    def poll(self, now: float) -> Found | None:
        """The answer; None while there is none and time is left."""
        if self._found is None and now >= self._give_up_at:
            return NOTHING
        return self._found

    def is_stale(self, now: float) -> bool:
        """Whether what it says is too old to plan a load with."""
        return now >= self._stale_at

    @property
    def over(self) -> bool:
        return self._found is not None


class Asker:
    """The scheduler's line to the daemon."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self._settings = settings
        self._caller = Caller(client, settings.pause_s)
        self._threads = ThreadPoolExecutor(_THREADS, "terrace-ask")
        self._lock = threading.Lock()
        self._waiting = 0
        self._teller = Teller(self._tell, self._caller.away_s)

    def ask(
        self, hashes: bytes, request: int, said: RequestHints, *, queued: bool, holds: bool = True
    ) -> Question:
        """Has told what the request says, and then asks what is stored of it; `holds`: what is
        found is held until it is released."""
        settings = self._settings
        bound_s = settings.lookup_timeout_s + settings.ask_shared_ms / 1000
        question = Question(time.monotonic() + bound_s)
        before = self.announce(said)

        def run() -> None:
            told = self._teller.told(before, bound_s)
            found = self._lookup(hashes, request, said.session, queued=queued) if told else NOTHING
            if found.answer is not None and not holds:
                self.release(found)
                found = replace(found, lease_until_unix_s=None, answer=None)
            question.answered(found)
            self._teller.look()

        if not (self.available() and self._submit(run)):
            question.answered(NOTHING)
        return question

    def announce(self, said: RequestHints) -> list[Saying]:
        """Has told what a request says before its lookup, after what others said before."""
        for note in said.notes:
            self._caller.hints.say(note)
        before = _before(said)
        for saying in before:
            self.say(saying)
        return before

    def release(self, found: Found) -> None:
        """Gives back the hold on what was found: it is loaded, or will not be."""
        answer = found.answer
        if answer is not None and answer.lease_id is not None:
            self.say(Saying(lambda client: _release(client, answer)))

    def say(self, saying: Saying) -> None:
        """Has something told that nobody waits for, now or when the daemon is back."""
        self._teller.add(saying)

    def look(self) -> None:
        """Stores are over that sayings may have waited for."""
        self._teller.look()

    def take_dropped(self) -> int:
        """How much was not told since the last take, being too late or too much."""
        return self._teller.take_dropped()

    def close(self) -> None:
        """An engine that goes in order takes as long as one call for what was still to be told."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._teller.close(self._settings.call_timeout_s)

    def epoch(self) -> int | None:
        """Which session with a daemon this is; None where there is none."""
        return self._caller.epoch()

    def available(self) -> bool:
        """Whether a daemon is there, and answered when it was last asked."""
        return not self._caller.away_s()

    def _submit(self, run: Callable[[], None]) -> bool:
        with self._lock:
            if self._waiting >= _WAITING_MAX:
                return False
            self._waiting += 1

        def counted() -> None:
            try:
                run()
            finally:
                with self._lock:
                    self._waiting -= 1

        try:
            self._threads.submit(counted)
        except RuntimeError:
            # Closed meanwhile.
            return False
        return True

    def _lookup(self, hashes: bytes, request: int, session: str | None, *, queued: bool) -> Found:
        found: list[Lookup] = []
        self._caller.call(
            lambda client: found.append(
                client.lookup(
                    hashes,
                    request=request,
                    session=session,
                    ask_shared_ms=self._settings.ask_shared_ms,
                    queued=queued,
                )
            )
        )
        return found_of(found[0]) if found else NOTHING

    def _tell(self, saying: Saying) -> bool:
        """Says whether it is to be told again."""
        why = self._caller.call(saying.tell)
        if isinstance(why, errors.TimedOut):
            return saying.repeatable
        return isinstance(why, (errors.Busy, errors.DaemonGone))


def _release(client: Client, answer: Lookup) -> None:
    with contextlib.suppress(errors.NotFound):
        # Else its time was over: nobody need know.
        client.release(answer)


def _before(said: RequestHints) -> list[Saying]:
    """What is said before a request's lookup."""
    envelope, before = said.envelope, said.before
    sayings = []
    if envelope is not None:
        # What its actions do twice is not known here.
        sayings.append(Saying(lambda client: client.hint_envelope(envelope), repeatable=False))
    if before:
        sayings.append(Saying(lambda client: client.hint(*before)))
    return sayings
