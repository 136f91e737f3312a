"""A worker's jobs that wait for their turn, and how many may be under way.

Loads go first, for requests wait for them, and have operations of their own: no store holds one up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from .jobs import Load, Store

Job = Load | Store

# Jobs of each kind that wait; above it, loads fail and stores are left out.
_WAITING_MAX = 1024
# Operations of each kind under way; the daemon's own bound of both is 256 a client.
UNDER_WAY_MAX = 96


class Line:
    """Jobs in line, of each kind the oldest first."""

    def __init__(self) -> None:
        self._waiting: dict[type[Job], deque[Job]] = {Load: deque(), Store: deque()}
        self._under_way: dict[type[Job], int] = {Load: 0, Store: 0}

    def add(self, job: Job) -> bool:
        """Says whether there is room for it."""
        waiting = self._waiting[type(job)]
        if len(waiting) >= _WAITING_MAX:
            return False
        waiting.append(job)
        return True

    def may_begin(self) -> bool:
        return self._kind() is not None

    def begin(self) -> Job:
        """The next job: it is under way until it is over."""
        kind = self._kind()
        assert kind is not None, "asked by may_begin"
        self._under_way[kind] += 1
        return self._waiting[kind].popleft()

    def over(self, job: Job) -> None:
        self._under_way[type(job)] -= 1

    def withdraw(self, numbers: Collection[int]) -> list[Job]:
        """Takes out those of the jobs that wait."""
        withdrawn: list[Job] = []
        for kind, waiting in self._waiting.items() if numbers else ():
            withdrawn += (job for job in waiting if job.number in numbers)
            self._waiting[kind] = deque(job for job in waiting if job.number not in numbers)
        return withdrawn

    def _kind(self) -> type[Job] | None:
        for kind, waiting in self._waiting.items():
            if waiting and self._under_way[kind] < UNDER_WAY_MAX:
                return kind
        return None
