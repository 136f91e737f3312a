"""Blocks of vLLM's cache that must not get other contents while a daemon may touch them.

A hold is a reference in vLLM's own block pool, so a request may be preempted, aborted or finished
meanwhile: its blocks are only reused once the last hold is gone. Stores hold their blocks from the
start; loads only when they are given up, since until then their request does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import STORE_S_MAX, Over, Report

# How long vLLM may wait for a store to end in place of preempting a request, in seconds.
_SOON_S = 0.25
# An engine without requests goes on stepping to hear of stores that end: at once for so long, then
# at this pace.
_EAGER_S, _PACE_S = 1.0, 0.02
# For as long as a daemon that answers may take; of one that is stuck it hears when it was idle and
# somebody wakes it up, which begins another such stretch.
_PATIENT_S, _WOKEN_S = 2 * STORE_S_MAX + 10.0, 2.5


@dataclass
class Hold:
    """A job's blocks, until all ranks are through with it."""

    slots: Sequence[int]
    # Since when the pool counts it; None: it does not.
    since: float | None = None
    # What was heard of the ranks that are through with it.
    over: Over | None = None


class Holds:
    """The blocks held, by the number of their job."""

    def __init__(
        self,
        ranks: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        *,
        alone: bool = True,
    ) -> None:
        """`alone`: no other engine waits for this one's steps."""
        self._ranks = ranks
        self._alone = alone
        self._clock, self._sleep = clock, sleep
        self._holds: dict[int, Hold] = {}
        self._stepped_at = self._woken_until = clock()
        # vLLM's block pool, once there is one.
        self.pool: Any = None

    def add(self, number: int, slots: Sequence[int], *, take: bool) -> None:
        """A job begins; `take`: its blocks are held from now on."""
        self._holds[number] = Hold(slots)
        if take:
            self._take(self._holds[number])

    def update(self, report: Report) -> dict[int, Over]:
        """Takes and lets go as the workers say; gives the jobs that are over on all ranks."""
        for number in report.lingering:
            hold = self._holds.get(number)
            if hold is not None and hold.since is None:
                self._take(hold)
        over = {}
        for number, one in report.over.items():
            hold = self._holds.get(number)
            if hold is None:
                continue
            hold.over = hold.over.merge(one) if hold.over is not None else one
            if hold.over.ranks >= self._ranks:
                self._let_go(number)
                over[number] = hold.over
        return over

    def stepped(self) -> None:
        """The workers are asked."""
        self._stepped_at = self._clock()

    def may_free_soon(self) -> bool:
        """Whether blocks come free by themselves within a moment: those that only holds keep, as of
        requests that are over, and not of those that run."""
        young = self._clock() - _SOON_S
        return any(
            one.since is not None and one.since > young and self._keeps(one)
            for one in self._holds.values()
        )

    def worth_stepping(self) -> bool:
        """Whether an idle engine should ask the workers again; takes a moment to say so of stores
        that last, once a step."""
        since = [one.since for one in self._holds.values() if one.since is not None]
        if not since:
            return False
        now = self._clock()
        age_s, pause_s = now - max(since), now - self._stepped_at
        if age_s >= _PATIENT_S and pause_s >= _WOKEN_S:
            self._woken_until = now + _WOKEN_S
        if age_s >= _PATIENT_S and now >= self._woken_until:
            return False
        # In data parallelism the engines that have requests take each step with this one.
        if self._alone and age_s >= _EAGER_S and pause_s < _PACE_S:
            self._sleep(_PACE_S - pause_s)
        return True

    def __len__(self) -> int:
        return len(self._holds)

    def _keeps(self, hold: Hold) -> bool:
        """Whether nobody else refers to the chain's last block, which the fewest share."""
        return bool(self.pool.blocks[hold.slots[-1]].ref_cnt == 1)

    def _take(self, hold: Hold) -> None:
        hold.since = self._clock()
        self.pool.touch([self.pool.blocks[slot] for slot in hold.slots])

    def _let_go(self, number: int) -> None:
        hold = self._holds.pop(number)
        if hold.since is not None:
            # The chain's end is what vLLM may reuse first.
            self.pool.free_blocks(self.pool.blocks[slot] for slot in reversed(hold.slots))
