"""Why a call failed, named by what the caller does next.

An engine that only wants to serve on catches `TerraceError` and computes the tokens itself.
"""

from __future__ import annotations

import copy
import errno
from pathlib import Path
from typing import Any, TypeVar

import grpc

# When the daemon says busy but not until when, in seconds.
_RETRY_AFTER_S_DEFAULT = 0.1


class TerraceError(Exception):
    """Anything that this package refuses or the daemon does."""


_E = TypeVar("_E", bound=TerraceError)


class DaemonGone(TerraceError):
    """No daemon answers. Serve on without it: the client comes back by itself.

    An operation that ends with this error was under way when its session ended; nothing is known of
    how far it got, so what its slots hold counts for nothing. A copy that had begun may still reach
    them, until a second after the client's next `epoch`, or until its `away` is `NoDaemon`.
    """


class NoDaemon(DaemonGone):
    """Nothing listens at the socket: the process that did has ended, or is about to."""


class SessionLost(DaemonGone):
    """The daemon ended this session, or this client gave it up. The client makes a new one by
    itself: try again.

    The daemon may live, and a copy that had begun with it.
    """


class Busy(TerraceError):
    """A bound was reached. Try again after `retry_after_s` seconds, or do without."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        # What copies and pickles it knows only of the message otherwise.
        return type(self), (str(self), self.retry_after_s)


class Invalid(TerraceError, ValueError):
    """The request makes no sense. Mend it as the message says."""


class NotFound(TerraceError, LookupError):
    """What it names is not there (any more)."""


class NameTaken(TerraceError):
    """A living client has this `client_id`. Choose another, or stop that client."""


class VersionMismatch(TerraceError):
    """Client and daemon speak different versions. Upgrade the older of the two."""


class Precondition(TerraceError):
    """It came in the wrong order; the message says what comes first."""


class TimedOut(TerraceError, TimeoutError):
    """No answer in time. It may have been carried out."""


class DaemonFault(TerraceError):
    """A fault of the daemon, or a daemon that speaks otherwise. See its log."""


class ClientClosed(TerraceError):
    """This client was closed, or belongs to the process that this one was forked from. Connect
    another one."""


_REASONS: dict[str, type[TerraceError]] = {
    "version_mismatch": VersionMismatch,
    "name_taken": NameTaken,
    "not_attached": SessionLost,
    "unknown_token": SessionLost,
}

_CODES: dict[grpc.StatusCode, type[TerraceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: Invalid,
    grpc.StatusCode.OUT_OF_RANGE: Invalid,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: Precondition,
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.UNAVAILABLE: DaemonGone,
    # So the daemon's side of a deadline may look. Calls that this side gave up never come here.
    grpc.StatusCode.CANCELLED: TimedOut,
    grpc.StatusCode.UNIMPLEMENTED: VersionMismatch,
}


def again(error: _E) -> _E:
    """The same error to be raised once more: each time one is raised it collects its callers, and
    so all that these hold."""
    return copy.copy(error)


def forked(process: int) -> ClientClosed:
    """The error for a client of `process` in one forked from it."""
    return ClientClosed(
        f"this client belongs to process {process}, from which this one was forked: connect "
        "another one here"
    )


def from_rpc(error: Any, socket: Path) -> TerraceError:
    """The error that says what to do about a failed call (`grpc.RpcError`)."""
    code, text = error.code(), error.details() or ""
    metadata = {key: value for key, value in error.trailing_metadata() or ()}
    kind = _REASONS.get(str(metadata.get("terrace-reason")))
    if kind is not None:
        return kind(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return Busy(text, _retry_after_s(metadata.get("retry-after-ms")))
    kind = _CODES.get(code, DaemonFault)
    if kind is DaemonGone:
        return DaemonGone(f"{_no_daemon(socket)}: {text}")
    if kind is VersionMismatch:
        return VersionMismatch(
            f"the daemon does not know this call ({text}): it is older than the client, upgrade it"
        )
    if kind is TimedOut:
        return TimedOut(f"no answer in time ({text}): the daemon is overloaded or stuck")
    return kind(text)


def unreachable(socket: Path, error: OSError) -> TerraceError:
    """The error for a socket that could not be connected to."""
    if isinstance(error, (TimeoutError, BlockingIOError)):
        # There is one who listens, and whose line is full.
        return TimedOut(f"the daemon at {socket} takes no connection: it is overloaded or stuck")
    what = {
        errno.ENOENT: "there is no such socket",
        errno.ECONNREFUSED: "a daemon that died left this socket"
        if socket.is_socket()
        else "that is no socket",
        errno.EACCES: "the socket belongs to another user: run as the daemon's user",
    }.get(error.errno or 0, str(error))
    kind = NoDaemon if error.errno in (errno.ENOENT, errno.ECONNREFUSED) else DaemonGone
    return kind(f"{_no_daemon(socket)}: {what}")


def _no_daemon(socket: Path) -> str:
    return f"no daemon answers at {socket} (is `terrace serve` running?)"


def _retry_after_s(text: Any) -> float:
    try:
        return int(text) / 1000
    except (TypeError, ValueError):
        return _RETRY_AFTER_S_DEFAULT
