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

from .jobs import Over, Report

# How long vLLM may wait for a store to end in place of preempting a request, in seconds.
_SOON_S = 0.25
# How long an engine without requests goes on stepping to hear of stores that end.
_STEPPING_S = 5.0


@dataclass
class Hold:
    """A job's blocks, until all ranks are through with it."""

    slots: Sequence[int]
    since: float
    # Whether the pool counts it.
    taken: bool = False
    # What was heard of the ranks that are through with it.
    over: Over | None = None


class Holds:
    """The blocks held, by the number of their job."""

    def __init__(self, ranks: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranks = ranks
        self._clock = clock
        self._holds: dict[int, Hold] = {}
        # vLLM's block pool, once there is one.
        self.pool: Any = None

    def add(self, number: int, slots: Sequence[int], *, take: bool) -> None:
        """A job begins; `take`: its blocks are held from now on."""
        self._holds[number] = Hold(slots, self._clock())
        if take:
            self._take(self._holds[number])

    def update(self, report: Report) -> dict[int, Over]:
        """Takes and lets go as the workers say; gives the jobs that are over on all ranks."""
        for number in report.lingering:
            hold = self._holds.get(number)
            if hold is not None and not hold.taken:
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

    def may_free_soon(self) -> bool:
        """Whether blocks come free by themselves within a moment."""
        return self._any_younger(_SOON_S)

    def worth_stepping(self) -> bool:
        """Whether an idle engine should go on asking the workers."""
        return self._any_younger(_STEPPING_S)

    def __len__(self) -> int:
        return len(self._holds)

    def _any_younger(self, age_s: float) -> bool:
        since = self._clock() - age_s
        return any(one.taken and one.since > since for one in self._holds.values())

    def _take(self, hold: Hold) -> None:
        hold.taken = True
        self.pool.touch([self.pool.blocks[slot] for slot in hold.slots])

    def _let_go(self, number: int) -> None:
        hold = self._holds.pop(number)
        if hold.taken:
            # The chain's end is what vLLM may reuse first.
            self.pool.free_blocks(self.pool.blocks[slot] for slot in reversed(hold.slots))
