"""Brings each completion to the operation it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

from . import arguments
from .answers import Completion, OpKind
from .errors import TerraceError, TimedOut, again, forked

_log = logging.getLogger("terrace_kv")

# Completions kept that came before the answer naming their operation; the oldest go first, those of
# calls that were given up. As many ends of lifts are kept beside them: most lifts are never waited
# for, and must not push out the ends of stores and loads.
_EARLY_MAX = 1024

# How long `result` waits where nobody says, in seconds.
_WAIT_S = 120.0


class Operation:
    """A store, load or lift under way. Nobody has to wait for it: it ends all the same.

    `result()` blocks, `await` does not; both give the `Completion`, or raise `DaemonGone` when the
    daemon went meanwhile.
    """

    def __init__(self, op_id: int, ended: Future[Completion]) -> None:
        self.op_id = op_id
        self._ended = ended
        # Whose threads hear of the end.
        self._process = os.getpid()

    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._ended.done()

    def result(self, timeout_s: float | None = _WAIT_S) -> Completion:
        """Waits for the end, at most `timeout_s` seconds (None: as long as it takes).

        Raises `TimedOut` when it has not ended by then; it goes on, and can be waited for again.
        """
        self._check_process()
        timeout_s = arguments.patience("timeout_s", timeout_s)
        try:
            return self._ended.result(timeout_s)
        except FutureTimeoutError:
            raise TimedOut(
                f"operation {self.op_id} has not ended within {timeout_s} s: wait for it again; "
                "its slots are the daemon's until it ends"
            ) from None

    def add_done_callback(self, call: Callable[[Operation], object]) -> None:
        """Calls `call(operation)` when it has ended, on the thread that reads the completions:
        it must not block. At once, if it has ended already. What it raises is logged."""
        self._check_process()
        self._ended.add_done_callback(lambda _: self._tell(call))

    def _tell(self, call: Callable[[Operation], object]) -> None:
        try:
            call(self)
        except KeyboardInterrupt:
            # The main thread's, which was told at once; it reads no completions.
            raise
        except BaseException:
            # Also what would end a thread: this one reads the completions of all.
            _log.exception("a callback of operation %d failed", self.op_id)

    def __await__(self) -> Generator[object, None, Completion]:
        self._check_process()
        return asyncio.wrap_future(self._ended).__await__()

    def _check_process(self) -> None:
        """Raises in a forked process what no end will ever say there."""
        if os.getpid() != self._process and not self._ended.done():
            raise forked(self._process)


class Completions:
    """Who waits for what in one session, and what came before anybody could."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, Future[Completion]] = {}
        self._early: OrderedDict[int, Completion] = OrderedDict()
        self._early_lifts: OrderedDict[int, Completion] = OrderedDict()
        self._over: TerraceError | None = None

    def expect(self, op_id: int) -> Operation:
        """The operation that the daemon has named."""
        ended: Future[Completion] = Future()
        # From here on nobody can cancel it, so that its end always finds it waiting.
        ended.set_running_or_notify_cancel()
        with self._lock:
            early = self._early.pop(op_id, None) or self._early_lifts.pop(op_id, None)
            over = self._over
            if early is None and over is None:
                ended = self._waiting.setdefault(op_id, ended)
        if early is not None:
            ended.set_result(early)
        elif over is not None:
            ended.set_exception(again(over))
        return Operation(op_id, ended)

    def arrived(self, completion: Completion) -> None:
        with self._lock:
            ended = self._waiting.pop(completion.op_id, None)
            if ended is None:
                is_lift = completion.kind is OpKind.PREFETCH
                early = self._early_lifts if is_lift else self._early
                early[completion.op_id] = completion
                if len(early) > _EARLY_MAX:
                    early.popitem(last=False)
        if ended is not None:
            ended.set_result(completion)

    def close(self, why: TerraceError) -> None:
        """Nothing will come any more: whoever waits hears why."""
        with self._lock:
            if self._over is not None:
                return
            self._over = why
            waiting, self._waiting = self._waiting, {}
        for ended in waiting.values():
            ended.set_exception(again(why))
