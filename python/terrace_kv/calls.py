"""Every call of a session, as request and reader of the answer: how it is waited for is up to
`client` and `aio`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from . import answers, arguments, convert, errors, hints
from .completions import Operation
from .lent import Borrowed, CudaExport
from .session import PoolHandle, Session

_T = TypeVar("_T")

# As bytes, one after the other, or one by one.
Hashes = bytes | Sequence[bytes]

# gRPC's header holds no longer deadline; the daemon's own bounds are nearer.
_DEADLINE_S_MAX = 3600.0


@dataclass(frozen=True)
class Call(Generic[_T]):
    """A call to be made in `session`."""

    session: Session
    method: str
    request: Any
    read: Callable[[Any], _T]
    # How long to wait for the answer, and the deadline that the daemon is told, in seconds.
    wait_s: float
    deadline_s: float


@dataclass(frozen=True)
class Stored:
    """What became of the blocks offered: they add up to the hashes of the call."""

    op: Operation
    # Being copied: their slots must not change before the operation ends.
    taken_blocks: int
    # Here already.
    present_blocks: int
    # Not kept: no room (from the tail), or their parent is not here. A normal answer.
    dropped_blocks: int
    # Kept, but not all that was asked for them is granted: a shield is over a budget, or another
    # owner wants the block otherwise; and directives with a time over its bound.
    clipped_blocks: int
    clipped_directives: int


# So long the daemon asks the shared store at most (docs/protocol.md).
_ASK_SHARED_MS_MAX = 8000


def lookup(
    session: Session,
    hashes: Hashes,
    request: int,
    agent: str | None,
    ask_shared_ms: int,
    queued: bool,
    timeout_s: float | None,
) -> Call[answers.Lookup]:
    message = convert.built(
        "LookupRequest",
        token=session.token,
        request_id=request,
        hashes=convert.joined(hashes, _width(session)),
        session=agent,
        ask_shared_ms=ask_shared_ms,
        queued=queued,
    )
    asks_s = min(message.ask_shared_ms, _ASK_SHARED_MS_MAX) / 1000
    wait_s = _patience(session, timeout_s) + (asks_s if timeout_s is None else 0)

    def read(answer: Any) -> answers.Lookup:
        return convert.lookup(answer, session.epoch)

    return Call(session, "Lookup", message, read, wait_s, wait_s)


def store(
    session: Session,
    hashes: Hashes,
    pool: PoolHandle,
    slots: Iterable[int],
    parent: bytes | None,
    request: int,
    agent: str | None,
    directives: Iterable[hints.Directive],
    durable: bool,
    token_ids: Iterable[int],
    timeout_s: float | None,
) -> Call[Stored]:
    message = convert.built(
        "StoreRequest",
        token=session.token,
        request_id=request,
        parent_hash=parent,
        hashes=convert.joined(hashes, _width(session)),
        pool_id=session.pool_id(pool),
        slots=convert.slots(slots),
        session=agent,
        directives=convert.directives(directives),
        durable=durable,
        token_ids=convert.tokens(token_ids),
    )

    def read(answer: Any) -> Stored:
        return Stored(
            session.completions.expect(answer.op_id),
            answer.taken_blocks,
            answer.present_blocks,
            answer.dropped_blocks,
            answer.clipped_blocks,
            answer.clipped_directives,
        )

    return _bounded(session, "Store", message, read, timeout_s)


def load(
    session: Session,
    hashes: Hashes,
    pool: PoolHandle,
    slots: Iterable[int],
    request: int,
    load_timeout_s: float | None,
) -> Call[Operation]:
    message = convert.built(
        "LoadRequest",
        token=session.token,
        request_id=request,
        hashes=convert.joined(hashes, _width(session)),
        pool_id=session.pool_id(pool),
        slots=convert.slots(slots),
    )
    if load_timeout_s is None:
        load_timeout_s = session.welcome.limits.load_timeout_ms_max / 1000
    load_timeout_s = arguments.seconds("load_timeout_s", load_timeout_s)

    def read(answer: Any) -> Operation:
        return session.completions.expect(answer.op_id)

    # The load's own bound travels as the call's deadline; the answer, that it is planned, comes
    # much earlier.
    wait_s = min(session.identity.call_timeout_s, load_timeout_s)
    return Call(session, "Load", message, read, wait_s, min(load_timeout_s, _DEADLINE_S_MAX))


def hbm_memory(session: Session) -> Call[tuple[int, CudaExport | None]]:
    message = convert.built("HbmMemoryRequest", token=session.token)
    return _bounded(session, "HbmMemory", message, convert.hbm_memory)


def borrow(session: Session, hashes: Hashes, request: int) -> Call[Borrowed]:
    message = convert.built(
        "BorrowRequest",
        token=session.token,
        request_id=request,
        hashes=convert.joined(hashes, _width(session)),
    )

    def read(answer: Any) -> Borrowed:
        return convert.borrowed(answer, session.epoch)

    return _bounded(session, "Borrow", message, read)


def give_back(session: Session, request: int) -> Call[int]:
    message = convert.built("GiveBackRequest", token=session.token, request_id=request)

    def read(answer: Any) -> int:
        blocks: int = answer.blocks
        return blocks

    return _bounded(session, "GiveBack", message, read)


def release(session: Session, lease_id: int) -> Call[None]:
    message = convert.built("ReleaseLeaseRequest", token=session.token, lease_id=lease_id)
    return _bounded(session, "ReleaseLease", message, _nothing)


def end_request(
    session: Session,
    request: int,
    stop: answers.Stop,
    output_tokens: int,
    prefill_tokens: int,
    prefill_s: float,
) -> Call[answers.Usage]:
    if prefill_s != 0:
        prefill_s = arguments.seconds("prefill_s", prefill_s)
    message = convert.built(
        "EndRequestRequest",
        token=session.token,
        request_id=request,
        stop=stop,
        output_tokens=output_tokens,
        prefill_tokens=prefill_tokens,
        prefill_us=round(prefill_s * 1e6),
    )
    return _bounded(session, "EndRequest", message, convert.usage)


def hint(session: Session, actions: Iterable[hints.Action]) -> Call[tuple[answers.Outcome, ...]]:
    made = convert.actions(actions, _width(session))
    message = convert.built("HintRequest", token=session.token, actions=made)
    return _bounded(session, "Hint", message, convert.outcomes)


def hint_envelope(
    session: Session, envelope: Mapping[str, Any] | str | bytes
) -> Call[answers.EnvelopeAnswer]:
    json = convert.envelope(envelope)
    message = convert.built("HintEnvelopeRequest", token=session.token, json=json)

    def read(answer: Any) -> answers.EnvelopeAnswer:
        return answers.EnvelopeAnswer(answer.message_id, convert.outcomes(answer))

    return _bounded(session, "HintEnvelope", message, read)


def lift(session: Session, operation_id: int) -> Call[answers.Lift]:
    message = convert.built("OperationRequest", token=session.token, operation_id=operation_id)
    return _bounded(session, "Operation", message, convert.lift)


def unregister(session: Session, pool: PoolHandle) -> Call[None]:
    message = convert.built(
        "UnregisterPoolRequest", token=session.token, pool_id=session.pool_id(pool)
    )

    def read(_: Any) -> None:
        session.pools.pop(pool, None)

    # As long as for registering it: copies under way are waited for, and the driver lets go of all.
    return _bounded(session, "UnregisterPool", message, read, session.pool_timeout_s())


def overlap(session: Session, hashes: Hashes) -> Call[answers.Overlap]:
    joined = convert.joined(hashes, _width(session))
    message = convert.built("OverlapRequest", token=session.token, hashes=joined)
    return _bounded(session, "Overlap", message, convert.overlap)


def sessions(session: Session, sessions_max: int) -> Call[answers.Sessions]:
    message = convert.built("SessionsRequest", sessions_max=sessions_max)
    return _bounded(session, "Sessions", message, convert.sessions)


def inspect(session: Session, block_hash: bytes) -> Call[answers.Block]:
    width = _width(session)
    arguments.one_of("block_hash", block_hash, bytes, f"the block's hash, {width} bytes")
    if len(block_hash) != width:
        raise errors.Invalid(f"a block hash has {len(block_hash)} bytes, not {width}")
    message = convert.built("InspectRequest", key=session.identity.namespace.key(block_hash))
    return _bounded(session, "Inspect", message, convert.block)


def status(session: Session) -> Call[answers.Status]:
    return _bounded(session, "Status", convert.built("StatusRequest"), convert.status)


def _bounded(
    session: Session,
    method: str,
    message: Any,
    read: Callable[[Any], _T],
    timeout_s: float | None = None,
) -> Call[_T]:
    wait_s = _patience(session, timeout_s)
    return Call(session, method, message, read, wait_s, wait_s)


def _patience(session: Session, timeout_s: float | None) -> float:
    if timeout_s is None:
        return session.identity.call_timeout_s
    return arguments.seconds("timeout_s", timeout_s)


def _width(session: Session) -> int:
    return session.identity.namespace.hash_bytes


def _nothing(_: Any) -> None:
    """Of an answer that says only that it was done."""
