"""Where a daemon's blocks are, for those who route requests: changes as they happen, and overlaps.

Becomes no client of the daemon and leaves no trace in it. docs/events.md has the rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from . import arguments, convert, errors
from .answers import Overlap, Tier
from .namespace import Namespace
from .session import Channel, Pings

_TIMEOUT_S = 5.0

# Nothing comes from a daemon where nothing happens, nor from one that hangs.
_PINGS = Pings(after_s=10.0, answer_s=5.0)


@dataclass(frozen=True)
class Residency:
    """One block, and all tiers that serve it now: none, and it is gone."""

    key: bytes
    # The last eight bytes of the engine's hash as a number, as in vLLM's events; None: not known.
    hash: int | None
    # The same of the block before it; None for a root too.
    parent_hash: int | None
    # Blocks before it in its chain.
    position: int
    tiers: frozenset[Tier]


@dataclass(frozen=True)
class Changes:
    """Blocks of one namespace, where they are now."""

    life: int
    sequence: int
    # Part of a snapshot: what is here, not what happened.
    snapshot: bool
    at_unix_us: int
    # The digest. The model is empty, and block_tokens 0, until a client has said Hello in it.
    namespace: bytes
    model: str
    block_tokens: int
    blocks: tuple[Residency, ...]


@dataclass(frozen=True)
class Reset:
    """Forget what you know of this daemon: what is here follows."""

    life: int


@dataclass(frozen=True)
class Lost:
    """The numbers from `first` to before `next` are gone: changes are missing here."""

    life: int
    first: int
    next: int


@dataclass(frozen=True)
class Complete:
    """The snapshot is over; `next` is the first number after it."""

    life: int
    next: int


Event = Changes | Reset | Lost | Complete


class Events:
    """What the daemon tells, to be iterated over and closed. Made by `daemon_events`."""

    def __init__(self, channel: Channel, request: Any, wait_s: float) -> None:
        self._channel = channel
        # gRPC's threads do not go along into a forked process.
        self._process = os.getpid()
        try:
            self._stream = channel.opened("Events", request, wait_s)
        except BaseException:
            channel.close()
            raise

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """Waits for the next one. Ends when the daemon stops, or another thread closes it. Raises
        `TimedOut` when the daemon does not answer pings any more, and `ClientClosed` in a process
        forked from the one that opened it."""
        if os.getpid() != self._process:
            raise errors.forked(self._process)
        try:
            return _event(next(self._stream))
        except grpc.RpcError as error:
            if self._stream.code() is grpc.StatusCode.CANCELLED:
                raise StopIteration from None
            if Pings.went_unanswered(error):
                raise errors.TimedOut(
                    f"no answer to pings for {_PINGS.answer_s} s: the daemon is overloaded or stuck"
                ) from error
            raise self._channel.why(error) from error

    def close(self) -> None:
        if os.getpid() != self._process:
            return
        self._stream.cancel()
        self._channel.close()

    def __enter__(self) -> Events:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def daemon_events(
    socket: str | os.PathLike[str],
    *,
    snapshot: bool = False,
    start: tuple[int, int] | None = None,
    namespace: bytes = b"",
    timeout_s: float = _TIMEOUT_S,
) -> Events:
    """Follows a daemon. With `snapshot` it first tells what is here, and tells it anew wherever
    changes would be missing. `start` is the life and the number to go on with. `namespace` is the
    digest of the only one that is wanted. `timeout_s` bounds connecting.

    It follows one life of the daemon and does not come back by itself: when that ends, so does the
    iteration, or it raises `DaemonGone`. It raises `Busy` when as many follow the daemon as may, or
    it has no time for a snapshot, and `TimedOut` when the daemon hangs: while connecting, and later
    on within 15 s. Open another one then, with `snapshot`, or with the life and the number
    to go on with."""
    timeout_s = arguments.seconds("timeout_s", timeout_s)
    life, first = (0, None) if start is None else _place(start)
    request = convert.built(
        "EventsRequest",
        **({} if first is None else {"from": first}),
        life=life,
        snapshot=snapshot,
        namespace=namespace,
    )
    return Events(Channel(arguments.socket(socket), pings=_PINGS), request, timeout_s)


def _place(start: tuple[int, int]) -> tuple[int, int]:
    """A life and a number."""
    numbers = arguments.whole_numbers("start", start)
    if len(numbers) != 2:
        raise errors.Invalid(f"start has {len(numbers)} numbers: give the life and the number")
    return numbers[0], numbers[1]


def daemon_overlap(
    socket: str | os.PathLike[str],
    hashes: bytes | Sequence[bytes],
    namespace: bytes | Namespace,
    hash_bytes: int = 32,
    timeout_s: float = _TIMEOUT_S,
) -> Overlap:
    """How much of a chain (root first) the daemon has, of a namespace given whole or as digest."""
    timeout_s = arguments.seconds("timeout_s", timeout_s)
    if isinstance(namespace, Namespace):
        digest, hash_bytes = namespace.digest(), namespace.hash_bytes
    else:
        digest = namespace
    request = convert.built(
        "OverlapRequest",
        namespace=digest,
        hash_bytes=hash_bytes,
        hashes=convert.joined(hashes, hash_bytes),
    )
    channel = Channel(arguments.socket(socket))
    try:
        return convert.overlap(channel.call("Overlap", request, timeout_s))
    finally:
        channel.close()


@dataclass
class Residents:
    """A reader's own picture of where a daemon's blocks are."""

    served: dict[bytes, frozenset[Tier]] = field(default_factory=dict)
    # Whether changes were lost since the last reset: what is here may be wrong.
    is_patchy: bool = False

    def apply(self, event: Event) -> None:
        if isinstance(event, Reset):
            self.served.clear()
            self.is_patchy = False
        elif isinstance(event, Lost):
            self.is_patchy = True
        elif isinstance(event, Changes):
            for block in event.blocks:
                if block.tiers:
                    self.served[block.key] = block.tiers
                else:
                    self.served.pop(block.key, None)

    def by_tier(self) -> Mapping[Tier, int]:
        """How many blocks each tier serves."""
        return {tier: sum(tier in tiers for tiers in self.served.values()) for tier in Tier}


def _event(message: Any) -> Event:
    kind = message.WhichOneof("said")
    if kind == "reset":
        return Reset(message.reset.life)
    if kind == "lost":
        # `from` is no name in Python.
        return Lost(message.lost.life, getattr(message.lost, "from"), message.lost.next)
    if kind == "complete":
        return Complete(message.complete.life, message.complete.next)
    if kind == "changes":
        told = message.changes
        return Changes(
            told.life,
            told.sequence,
            told.snapshot,
            told.at_unix_us,
            told.namespace,
            told.model,
            told.block_tokens,
            tuple(map(_residency, told.blocks)),
        )
    raise errors.DaemonFault("it told an event unknown here: upgrade the client")


def _residency(message: Any) -> Residency:
    return Residency(
        message.key,
        message.hash or None,
        message.parent_hash or None,
        message.position,
        convert.tiers(message.tiers),
    )
