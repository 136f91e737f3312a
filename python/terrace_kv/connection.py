"""Keeps a client connected: when its session ends it makes the next one, pools and all.

::

    connected --session ends--> away --Hello, attach, every pool--> connected
        \\--close--> closed <--close--/

While it is away every call is refused at once, so that an engine serves on without a daemon.
Requests, leases and operations of a former session are gone; only pools are made again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from pathlib import Path

from . import errors
from .session import Identity, PoolHandle, Session

_log = logging.getLogger("terrace_kv")

# Pauses between attempts, in seconds.
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.05, 1.0

# How long a copy may go on after its session has ended, in seconds.
_GRACE_S = 1.0


class Connection:
    """A session, as long as there is a daemon."""

    def __init__(self, path: Path, identity: Identity, *, may_be_away: bool) -> None:
        self.path = path
        self.identity = identity
        self._state = threading.Condition()
        # Who awaits a session without a thread that waits.
        self._awaited: set[Future[bool]] = set()
        self._session: Session | None = None
        self._away: errors.TerraceError = errors.DaemonGone("not connected yet")
        self._may_be_away = may_be_away
        self._closed = False
        self._closing = threading.Event()
        # Registering and connecting exclude each other, so that no pool is missed or sent twice.
        self._registering = threading.Lock()
        self._handles: list[PoolHandle] = []
        # Threads, and the locks that they hold, do not go along into a forked process.
        self._process = os.getpid()
        try:
            self._session = Session(path, identity)
        except (errors.DaemonGone, errors.Busy, errors.TimedOut) as error:
            if not may_be_away:
                raise
            self._away = error
            # It may be the wrong socket: nobody may ever come to it.
            _log.warning("no session with the daemon at %s, trying on: %s", path, error)
        self._keeper = threading.Thread(target=self._keep, name="terrace-kv", daemon=True)
        self._keeper.start()

    def session(self) -> Session:
        """The living session. Raises at once where there is none."""
        self.check_process()
        session = self._session
        if session is None:
            if self._closed:
                raise errors.ClientClosed("this client was closed: connect another one")
            raise self._refusal()
        return session

    def check_process(self) -> None:
        """Raises in a process forked from the client's own: calls with the session's token would be
        the parent's, and their ends would go to it."""
        if os.getpid() != self._process:
            raise errors.forked(self._process)

    def connected(self) -> bool:
        return self.epoch() is not None

    def epoch(self) -> int | None:
        session = self._session
        return None if session is None or os.getpid() != self._process else session.epoch

    def why_away(self) -> errors.TerraceError | None:
        if os.getpid() != self._process:
            return errors.forked(self._process)
        return self._away if self._session is None else None

    def drop(self) -> None:
        """Ends the session, if there is one; the keeper makes the next."""
        self.check_process()
        session = self._session
        if session is not None:
            self.lost(session, errors.SessionLost("this client gave its session up"))

    def wait_connected(self, timeout_s: float | None) -> bool:
        """Waits until there is a session; says whether there is one."""
        self.check_process()
        with self._state:
            self._state.wait_for(lambda: self._session is not None or self._closed, timeout_s)
            return self._session is not None

    def await_connected(self) -> Future[bool]:
        """As `wait_connected`, for those who wait without a thread. Who waits no longer cancels
        it."""
        self.check_process()
        awaited: Future[bool] = Future()
        # Forgotten where it is cancelled, however long no daemon comes.
        awaited.add_done_callback(self._awaited.discard)
        with self._state:
            self._awaited.add(awaited)
        self._tell_awaited()
        return awaited

    def lost(self, session: Session, why: errors.TerraceError) -> None:
        """A call found that the session is gone: no other call waits to find the same."""
        with self._state:
            if self._session is session:
                self._session, self._away = None, why
        session.give_up()

    def register(self, handle: PoolHandle) -> None:
        """Registers a pool now, or as soon as there is a daemon."""
        self.check_process()
        with self._registering:
            if self._closed:
                self.session()
            session = self._session
            if session is not None:
                try:
                    # Who can do without the daemon waits no longer for it than for any call: the
                    # keeper has the time.
                    call_s, pool_s = self.identity.call_timeout_s, session.pool_timeout_s()
                    session.register(handle, call_s if self._may_be_away else pool_s)
                except errors.DaemonGone as error:
                    self.lost(session, error)
                except (errors.Busy, errors.TimedOut) as error:
                    if not self._may_be_away:
                        raise
                    # It may be registered all the same: only a new session knows.
                    self.lost(session, error)
            self._handles.append(handle)

    def forget(self, handle: PoolHandle) -> Session | None:
        """Registers the pool no more; gives the last session that may have it, if one is there."""
        self.check_process()
        if not self._registering.acquire(timeout=self.identity.call_timeout_s):
            raise errors.TimedOut("a session is being made, in which the pool is registered again")
        try:
            if handle in self._handles:
                self._handles.remove(handle)
            return self._session
        finally:
            self._registering.release()

    def outlive(self, former: Session | None) -> None:
        """Returns once nothing of sessions up to `former` goes on any more.

        Raises `SessionLost` where a call's time brings no proof of that: a daemon that is gone, or
        a later session.
        """

        def is_gone() -> bool:
            return isinstance(self.why_away(), errors.NoDaemon)

        def is_later() -> bool:
            return self._session is not None and self._session is not former

        with self._state:
            call_s = self.identity.call_timeout_s
            self._state.wait_for(lambda: self._closed or is_gone() or is_later(), call_s)
            if self._closed:
                self.session()
            if is_gone():
                return
            if not is_later():
                raise errors.SessionLost(f"the daemon may go on with what it began: {self._away}")
        time.sleep(_GRACE_S)

    def close(self) -> None:
        """Ends the session, and the thread that keeps it. Twice is once; nothing in a process
        forked from the client's own, whose session it is."""
        if os.getpid() != self._process:
            return
        why = errors.ClientClosed("this client was closed while the operation was under way")
        with self._state:
            self._closed = True
            session, self._session = self._session, None
            self._state.notify_all()
        self._closing.set()
        self._tell_awaited()
        if session is not None:
            session.close(why)
        if self._keeper is not threading.current_thread():
            self._keeper.join(timeout=self.identity.call_timeout_s)
        self._handles = []

    def _tell_awaited(self) -> None:
        """Ends the awaiting once there is a session, or will be none."""
        with self._state:
            is_there = self._session is not None
            if not is_there and not self._closed:
                return
            awaited = list(self._awaited)
            self._awaited.clear()
        for one in awaited:
            if one.set_running_or_notify_cancel():
                one.set_result(is_there)

    def _refusal(self) -> errors.TerraceError:
        """What callers hear while it is away: to do without, unless a person must mend it."""
        why = self._away
        if isinstance(why, (errors.DaemonGone, errors.VersionMismatch)):
            return errors.again(why)
        # Whoever answers, or takes too long for it, lives.
        return errors.SessionLost(str(why))

    def _keep(self) -> None:
        session = self._session
        while not self._closed:
            if session is not None:
                why = session.read_completions()
                self._leave(session, why)
            session = self._return()

    def _leave(self, session: Session, why: errors.TerraceError) -> None:
        with self._state:
            if self._session is session:
                self._session, self._away = None, why
            closed = self._closed
        session.close(
            type(why)(f"the session ended while the operation was under way ({why})")
            if isinstance(why, errors.DaemonGone)
            else why
        )
        if not closed:
            _log.warning("the session with the daemon at %s is over: %s", self.path, why)

    def _return(self) -> Session | None:
        """The next session, however long that takes; none once this is closed."""
        pause_s = _PAUSE_S_MIN
        while not self._closing.wait(pause_s):
            try:
                with self._registering:
                    return self._open()
            except Exception as error:
                # Whatever it is, the client must not stop trying.
                why = (
                    error
                    if isinstance(error, errors.TerraceError)
                    else errors.DaemonFault(f"connecting failed: {error!r}")
                )
                if type(why) is not type(self._away):
                    _log.warning("no session with the daemon at %s, trying on: %s", self.path, why)
                with self._state:
                    self._away = why
                    self._state.notify_all()
            pause_s = min(pause_s * 2, _PAUSE_S_MAX)
        return None

    def _open(self) -> Session | None:
        session = Session(self.path, self.identity)
        try:
            for handle in self._handles:
                self._register_again(session, handle)
        except BaseException as error:
            session.close(errors.SessionLost(f"registering the pools again failed: {error}"))
            raise
        with self._state:
            if self._closed:
                session.close(errors.ClientClosed("this client was closed"))
                return None
            self._session = session
            self._state.notify_all()
        self._tell_awaited()
        _log.info("connected to the daemon at %s, %d pools", self.path, len(self._handles))
        return session

    def _register_again(self, session: Session, handle: PoolHandle) -> None:
        try:
            session.register(handle, session.pool_timeout_s())
        except (errors.DaemonGone, errors.Busy, errors.TimedOut):
            raise
        except errors.TerraceError as error:
            # One pool that this daemon refuses is the concern of whoever uses it.
            _log.warning("the daemon at %s refused a pool: %s", self.path, error)
            session.pools[handle] = error
