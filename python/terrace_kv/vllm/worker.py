"""The workers' side: one a rank, beside the model.

Carries out the scheduler's jobs on a thread of its own, between the daemon and this rank's KV
cache, and reports their ends. No call of the engine waits here for the daemon, and none raises once
the engine runs.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable

from .. import errors
from ..answers import Completion
from ..calls import Stored
from ..client import Client
from ..completions import Operation
from ..cuda import CudaPool
from ..namespace import Namespace
from ..pool import HostPool
from .jobs import STORE_S_MAX, Load, Report, Step
from .ledger import Daemon, Ledger
from .line import Job, Line
from .settings import Settings
from .stats import Counts

_log = logging.getLogger("terrace_kv.vllm")

# How much later than its bound a load's end may be heard.
_LOAD_SLACK_S = 2.0


class WorkerSide:
    """One rank's jobs."""

    def __init__(
        self,
        client: Client,
        pool: HostPool | CudaPool,
        shard: int,
        settings: Settings,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """`fence` orders what the engine has queued on its device before the daemon's copies."""
        self._client = client
        self._fence = fence
        self._settings = settings
        self._handle = client.register_pool(pool, shard)
        self._ledger = Ledger()
        self._counts = Counts()
        self._line = Line()
        self._left_alone_until = 0.0
        self._closed = False
        # Guards all of the above; no call to the daemon is made under it.
        self._state = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="terrace-mover", daemon=True)
        self._thread.start()

    def begin(self, step: Step) -> None:
        """Takes a step's jobs."""
        now = time.monotonic()
        jobs: list[Job] = [*step.loads, *step.stores]
        with self._state:
            for job in jobs:
                is_load = isinstance(job, Load)
                wait_s = self._settings.load_timeout_s if is_load else STORE_S_MAX
                self._ledger.add(job, now + wait_s)
            fenced = self._fenced()
            for job in jobs:
                if fenced:
                    self._take(job)
                else:
                    self._refused(job, missed=False)
            self._state.notify_all()

    def _fenced(self) -> bool:
        try:
            self._fence()
        except errors.TerraceError:
            _log.exception("the engine's device takes no fence: nothing is moved")
            return False
        return True

    def _take(self, job: Job) -> None:
        available = self._client.connected and time.monotonic() >= self._left_alone_until
        if not (available and self._line.add(job)):
            self._refused(job, missed=True)

    def take_finished(self) -> tuple[set[str], set[int]]:
        """Requests whose loads have ended, and the slots that hold nothing because of a failure."""
        with self._state:
            self._look()
            return self._ledger.take_finished(), self._ledger.take_failed_slots()

    def take_report(self) -> Report:
        with self._state:
            return self._ledger.take_report()

    def take_counts(self) -> Counts:
        with self._state:
            return self._counts.take()

    def close(self) -> None:
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._thread.join(timeout=self._settings.call_timeout_s)
        try:
            # The engine may free its KV cache after this.
            self._client.unregister_pool(self._handle)
        except errors.TerraceError as error:
            _log.warning("the daemon did not say that it has let go of the KV cache: %s", error)
        self._client.close()

    def _look(self) -> None:
        now = time.monotonic()
        # Those whose turn did not come in time say nothing of the daemon.
        for job in self._line.withdraw(self._ledger.overdue(now, begun=False)):
            self._refused(job, missed=True)
        overdue = self._ledger.overdue(now, begun=True)
        if overdue:
            _log.warning("%d operations got no end in time: a new session is made", len(overdue))
            for number in overdue:
                self._ledger.lost(number)
            self._pause()
            self._client.reconnect()
        is_gone = isinstance(self._client.away, errors.NoDaemon)
        self._ledger.look(now, Daemon(self._client.epoch, is_gone))

    def _pause(self) -> None:
        self._left_alone_until = time.monotonic() + self._settings.pause_s

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(self._may_begin)
                if self._closed:
                    return
                job = self._line.begin()
                self._ledger.begun(job.number, self._client.epoch, self._overdue_at(job))
            try:
                self._begin(job)
            except Exception:
                # A defect here must not leave requests waiting.
                _log.exception("a job failed")
                self._lost(job)

    def _may_begin(self) -> bool:
        return self._closed or self._line.may_begin()

    def _overdue_at(self, job: Job) -> float:
        """When the end of a job that begins now should have been heard."""
        load_s = self._settings.load_timeout_s + _LOAD_SLACK_S
        return time.monotonic() + (load_s if isinstance(job, Load) else STORE_S_MAX)

    def _begin(self, job: Job) -> None:
        try:
            operation, kept = self._call(job)
        except errors.TimedOut as error:
            # It may have begun all the same: only a new session ends that.
            _log.warning("serving on without the daemon for a while: %s", error)
            with self._state:
                self._pause()
            self._lost(job)
            self._client.reconnect()
        except (errors.DaemonGone, errors.ClientClosed):
            self._lost(job)
        except errors.TerraceError as error:
            _log.warning("the daemon refused: %s", error)
            with self._state:
                self._line.over(job)
                # Any other refusal is repeated if it is offered again.
                self._refused(job, missed=isinstance(error, errors.Busy))
        else:
            operation.add_done_callback(lambda one: self._ended(job, one, kept))

    def _call(self, job: Job) -> tuple[Operation, int]:
        """Begins a job; gives its operation, and how many of a store's blocks are kept."""
        if isinstance(job, Load):
            timeout_s = self._settings.load_timeout_s
            operation = self._client.load(
                job.hashes, self._handle, job.slots, request=job.request, load_timeout_s=timeout_s
            )
            return operation, 0
        stored = self._client.store(
            job.hashes,
            self._handle,
            job.slots,
            parent=job.parent,
            request=job.request,
            session=job.session,
            directives=job.directives,
        )
        self._count_stored(stored)
        return stored.op, stored.taken_blocks + stored.present_blocks

    def _count_stored(self, stored: Stored) -> None:
        with self._state:
            self._counts.add("stored_blocks", stored.taken_blocks)
            self._counts.add("present_blocks", stored.present_blocks)
            self._counts.add("dropped_blocks", stored.dropped_blocks)

    def _ended(self, job: Job, operation: Operation, kept: int) -> None:
        """On the thread that reads completions."""
        try:
            done: Completion = operation.result(0)
        except errors.TerraceError:
            self._lost(job)
            return
        with self._state:
            self._line.over(job)
            if isinstance(job, Load):
                self._counts.add("failed_load_blocks", len(done.failed))
            self._ledger.ended(job.number, done.failed, min((kept, *done.failed)))
            self._state.notify_all()

    def _lost(self, job: Job) -> None:
        with self._state:
            self._line.over(job)
            self._counts.add("failed_calls")
            if isinstance(job, Load):
                self._counts.add("failed_load_blocks", len(job.slots))
            self._ledger.lost(job.number)
            self._state.notify_all()

    def _refused(self, job: Job, *, missed: bool) -> None:
        """Under the lock, of a job that was never begun."""
        self._counts.add("failed_calls")
        if isinstance(job, Load):
            self._counts.add("failed_load_blocks", len(job.slots))
        elif not missed:
            self._counts.add("dropped_blocks", len(job.slots))
        self._ledger.never_begun(job.number, missed=missed)
        self._state.notify_all()


def open_client(settings: Settings, space: Namespace, engine: str, part: str) -> Client:
    """A client for one part of the engine, which waits for its daemon; refuses only what a person
    must mend.

    Raises `VersionMismatch`, or `Invalid` for a namespace that the daemon does not take.
    """
    return Client(
        settings.socket,
        client_id=f"{engine}/{os.getpid()}/{part}",
        engine=engine,
        client_name="vllm",
        namespace=space,
        call_timeout_s=settings.call_timeout_s,
        prefill_tokens_per_s=settings.prefill_tokens_per_s,
        may_be_away=True,
    )
