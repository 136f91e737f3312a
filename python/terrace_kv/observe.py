"""Looks at a daemon without becoming its client: what `terrace status` and its kin show."""

from __future__ import annotations

import os
from typing import Any

from . import answers, arguments, convert
from .errors import Invalid
from .namespace import KEY_BYTES, Namespace
from .residency import Residency
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
    socket: str | os.PathLike[str],
    block: bytes | str | Residency,
    timeout_s: float = _TIMEOUT_S,
    *,
    namespace: Namespace | None = None,
) -> answers.Block:
    """What it knows of a block.

    With the engine's `namespace`, `block` is the block's hash there, as `hashing.block_hashes`
    gives it. Without, it is the daemon's own key: the 16 bytes of `Residency.key`, the 32 hex
    digits that its log and `terrace inspect` print, or what `daemon_events` told of the block.
    """
    request = convert.built("InspectRequest", key=_key(block, namespace))
    return convert.block(_ask(socket, "Inspect", request, timeout_s))


def _ask(socket: str | os.PathLike[str], method: str, request: Any, timeout_s: float) -> Any:
    timeout_s = arguments.seconds("timeout_s", timeout_s)
    channel = Channel(arguments.socket(socket))
    try:
        return channel.call(method, request, timeout_s)
    finally:
        channel.close()


def _key(block: bytes | str | Residency, namespace: Namespace | None) -> bytes:
    """The daemon's key of the block."""
    if namespace is not None:
        width = arguments.one_of("namespace", namespace, Namespace, "a Namespace").hash_bytes
        given = arguments.one_of("block", block, bytes, f"the block's hash, {width} bytes")
        if len(given) != width:
            raise Invalid(f"block has {len(given)} bytes: a hash has {width} in this namespace")
        return namespace.key(given)
    if isinstance(block, Residency):
        return block.key
    takes = f"its key, {KEY_BYTES} bytes or as hex digits, or its hash with namespace="
    arguments.one_of("block", block, (bytes, str), takes)
    try:
        key = bytes.fromhex(block) if isinstance(block, str) else block
    except ValueError as error:
        raise Invalid(f"block is {block!r}: {error}; give {takes}") from error
    if len(key) != KEY_BYTES:
        raise Invalid(f"block has {len(key)} bytes: give {takes}")
    return key
