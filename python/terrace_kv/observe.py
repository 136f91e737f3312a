"""Looks at a daemon without becoming its client: what `terrace status` and its kin show."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from . import answers, convert
from .session import Channel

_TIMEOUT_S = 5.0


def daemon_status(socket: str | os.PathLike[str], timeout_s: float = _TIMEOUT_S) -> answers.Status:
    """What the daemon holds and does. Raises `DaemonGone` when none answers."""
    return convert.status(_ask(socket, "Status", convert.built("StatusRequest"), timeout_s))


def daemon_sessions(
    socket: str | os.PathLike[str], sessions_max: int = 0, timeout_s: float = _TIMEOUT_S
) -> answers.Sessions:
    """So many of its sessions, those heard of last (0: 100, at most 1000)."""
    request = convert.built("SessionsRequest", sessions_max=sessions_max)
    return convert.sessions(_ask(socket, "Sessions", request, timeout_s))


def daemon_block(
    socket: str | os.PathLike[str], key: bytes, timeout_s: float = _TIMEOUT_S
) -> answers.Block:
    """What it knows of the block of this key (16 bytes, as logs print it in hex)."""
    request = convert.built("InspectRequest", key=key)
    return convert.block(_ask(socket, "Inspect", request, timeout_s))


def _ask(socket: str | os.PathLike[str], method: str, request: Any, timeout_s: float) -> Any:
    channel = Channel(Path(socket))
    try:
        return channel.call(method, request, timeout_s)
    finally:
        channel.close()
