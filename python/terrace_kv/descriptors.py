"""The descriptor socket, `PATH.fd`: the connection that is a client's life.

Pools travel over it as descriptors, in messages of 32 bytes each way, little-endian, as
docs/protocol.md draws them. No KV bytes pass here.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import weakref
from pathlib import Path

from . import errors

_REQUEST = struct.Struct("<4sHH16sQ")
_ANSWER = struct.Struct("<4sHHI4xQQ")
_MAGIC, _VERSION = b"TRFD", 1
_ATTACH, _POOL, _HBM = 1, 2, 4

# How long the daemon may take for an answer here, in seconds; it does nothing slow on this socket.
_PATIENCE_S = 5.0

_OK, _UNKNOWN_TOKEN, _ALREADY_ATTACHED, _NOT_ATTACHED, _TOO_MANY, _TAG_IN_USE = 0, 2, 3, 4, 5, 6
_NO_HBM, _NO_DESCRIPTORS = 8, 9
_TEXTS = {
    1: "the daemon could not read a message of this client's",
    _UNKNOWN_TOKEN: "no living session has this token",
    _ALREADY_ATTACHED: "another connection is attached to this session",
    _NOT_ATTACHED: "the connection is not attached to this session",
    _TOO_MANY: "too many descriptors wait to be registered",
    _TAG_IN_USE: "a descriptor already waits under this tag",
    _NO_HBM: "the daemon has no HBM tier in this machine's memory, or can't give it away",
    _NO_DESCRIPTORS: "the daemon has as many descriptors open as it may: raise its limit",
}


# Those of this process: a session lives as long as anybody holds its line, and a forked process is
# nobody.
_LINES: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def _forked() -> None:
    for line in _LINES:
        line.close()


os.register_at_fork(after_in_child=_forked)


class Attachment:
    """An attached connection. Closing it ends the session."""

    def __init__(self, path: Path, token: bytes) -> None:
        """Connects to the descriptor socket beside the daemon's socket `path`, and attaches."""
        self._token = token
        self._lock = threading.Lock()
        self._next_tag = 1
        twin = Path(f"{path}.fd")
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        _LINES.add(self._line)
        self._line.settimeout(_PATIENCE_S)
        try:
            self._line.connect(str(twin))
            self._exchange(_ATTACH, 0, None)
        except OSError as error:
            self.close()
            raise errors.unreachable(twin, error) from error
        except errors.TerraceError:
            self.close()
            raise

    def send_memory(self, fd: int) -> int:
        """Sends the descriptor of a pool's memory; gives the tag to register it under."""
        with self._lock:
            tag = self._next_tag
            self._next_tag += 1
            self._ask(_POOL, tag, fd)
        return tag

    def hbm(self) -> int:
        """A read-only descriptor of the HBM tier's memory, for the caller to close."""
        with self._lock:
            fd = self._ask(_HBM, 0, None)
        if fd is None:
            raise errors.DaemonFault("it sent no descriptor of its HBM tier")
        return fd

    def _ask(self, kind: int, tag: int, fd: int | None) -> int | None:
        try:
            return self._exchange(kind, tag, fd)
        except OSError as error:
            # An exchange given up half-way leaves the line unusable, and so the session.
            self.close()
            raise errors.SessionLost(f"the `.fd` connection is lost: {error}") from error

    def close(self) -> None:
        self._line.close()

    def _exchange(self, kind: int, tag: int, fd: int | None) -> int | None:
        message = _REQUEST.pack(_MAGIC, _VERSION, kind, self._token, tag)
        riding = [] if fd is None else [fd]
        # The descriptor rides on the first byte, once.
        sent = socket.send_fds(self._line, [message], riding)
        self._line.sendall(message[sent:])
        answer, received = self._receive()
        magic, version, answered, status, _, answered_tag = _ANSWER.unpack(answer)
        try:
            if (magic, version) != (_MAGIC, _VERSION):
                raise errors.VersionMismatch("the daemon speaks otherwise on `.fd`: upgrade one")
            if status != _OK:
                raise _refused(status)
            if (answered, answered_tag) != (kind, tag):
                raise errors.DaemonFault("it answered another message than was sent on `.fd`")
        except errors.TerraceError:
            if received is not None:
                os.close(received)
            raise
        return received

    def _receive(self) -> tuple[bytes, int | None]:
        """An answer, and the descriptor that rides on its first byte, if one does."""
        answer, fds = b"", []
        while len(answer) < _ANSWER.size:
            more, riding, _, _ = socket.recv_fds(self._line, _ANSWER.size - len(answer), 1)
            fds += riding
            if not more:
                raise ConnectionResetError("the daemon closed it")
            answer += more
        return answer, fds[0] if fds else None


def _refused(status: int) -> errors.TerraceError:
    text = _TEXTS.get(status, f"status {status} on `.fd`")
    if status == _TOO_MANY:
        return errors.Busy(text, 0.1)
    if status == _NO_DESCRIPTORS:
        return errors.Busy(text, 1.0)
    if status == _NO_HBM:
        return errors.Precondition(text)
    if status in (_UNKNOWN_TOKEN, _ALREADY_ATTACHED, _NOT_ATTACHED):
        return errors.SessionLost(text)
    return errors.DaemonFault(text)
