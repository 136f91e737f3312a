"""Which jobs of a worker may still touch which slots.

::

    begun --its end is heard--------------------------------> over
      |---session lost, or no end in time--> adrift --proof--> over

A slot that a daemon may still read or write must not get another block: a daemon that was stopped
can go on much later. So a job without an end stays adrift until there is proof that its session is
over: a later session of the same client, or a daemon that is gone, and a second more for the copy
that had begun. A load adrift is reported as failed at once, and its slots as lingering.

Decides only: no calls, no threads, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .jobs import Load, Over, Report, Store

# How long a copy may go on after its session has ended, in seconds.
GRACE_S = 1.0


@dataclass(frozen=True)
class Daemon:
    """What is known of the daemon now."""

    # The client's session; None while there is none.
    epoch: int | None
    # Nothing listens any more where it listened.
    is_gone: bool


@dataclass
class _Entry:
    job: Load | Store
    # The session that it was begun in; None: in none, or not begun yet.
    epoch: int | None
    overdue_at: float
    begun: bool = False
    adrift: bool = False
    proven_at: float | None = None


class Ledger:
    """One worker's jobs."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        # The loads of each request that keep it waiting.
        self._awaited: dict[str, set[int]] = {}
        self._report = Report()
        self._finished: set[str] = set()
        self._failed_slots: set[int] = set()

    def add(self, job: Load | Store, overdue_at: float) -> None:
        """A job that was handed over, and when its turn should have come."""
        self._entries[job.number] = _Entry(job, None, overdue_at)
        if isinstance(job, Load):
            self._awaited.setdefault(job.request_id, set()).add(job.number)

    def begun(self, number: int, epoch: int | None, overdue_at: float) -> None:
        """The daemon may touch its slots from now on, and its end should be heard by then."""
        entry = self._entries[number]
        entry.begun, entry.epoch, entry.overdue_at = True, epoch, overdue_at

    def ended(self, number: int, failed: Sequence[int], kept_blocks: int = 0) -> None:
        """Nothing touches its slots any more. `failed`: indexes into a load's blocks."""
        entry = self._entries.get(number)
        if entry is None:
            return
        if not entry.adrift:
            self._settle(entry.job, [entry.job.slots[at] for at in failed])
        self._over(number, Over(1, kept_blocks))

    def never_begun(self, number: int, *, missed: bool) -> None:
        """It was refused: nothing has touched its slots. `missed`: as of `Over`."""
        entry = self._entries.get(number)
        if entry is None:
            return
        if not entry.adrift:
            self._settle(entry.job, entry.job.slots)
        self._over(number, Over(1, 0, missed, refused=not missed))

    def lost(self, number: int) -> None:
        """Its end will not be heard."""
        entry = self._entries.get(number)
        if entry is None or entry.adrift:
            return
        entry.adrift = True
        if isinstance(entry.job, Load):
            self._report.lingering.add(number)
            self._settle(entry.job, entry.job.slots)

    def overdue(self, now: float, *, begun: bool) -> set[int]:
        """Jobs whose end should have been heard; or whose turn should have come."""
        return {
            number
            for number, entry in self._entries.items()
            if entry.begun == begun and not entry.adrift and now >= entry.overdue_at
        }

    def look(self, now: float, daemon: Daemon) -> None:
        """Lets go of jobs adrift whose session is proven to be over."""
        for number, entry in list(self._entries.items()):
            if not entry.adrift:
                continue
            later = daemon.epoch is not None and daemon.epoch > (entry.epoch or 0)
            if not (later or daemon.is_gone):
                entry.proven_at = None
            elif entry.proven_at is None:
                entry.proven_at = now
            elif now - entry.proven_at >= GRACE_S:
                self._over(number, Over(1, 0, missed=True))

    def take_finished(self) -> set[str]:
        """Requests whose loads have all ended since the last take, well or not."""
        finished, self._finished = self._finished, set()
        return finished

    def take_failed_slots(self) -> set[int]:
        failed, self._failed_slots = self._failed_slots, set()
        return failed

    def take_report(self) -> Report:
        report, self._report = self._report, Report()
        return report

    def __len__(self) -> int:
        return len(self._entries)

    def _settle(self, job: Load | Store, slots: Sequence[int]) -> None:
        """A load keeps its request waiting no longer; these of its slots hold nothing."""
        if not isinstance(job, Load):
            return
        if slots:
            self._failed_slots.update(slots)
            self._report.failed_requests.add(job.request_id)
        awaited = self._awaited[job.request_id]
        awaited.discard(job.number)
        if not awaited:
            del self._awaited[job.request_id]
            self._finished.add(job.request_id)

    def _over(self, number: int, over: Over) -> None:
        del self._entries[number]
        self._report.over[number] = over
