"""Messages to the package's own types and back: what is sent is not checked here."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import IntEnum
from typing import Any, TypeVar, cast

import numpy as np

from . import _wire, answers, arguments, hints
from .answers import Tier
from .cuda import CudaPool
from .errors import DaemonFault, Invalid
from .lent import Borrowed, CudaExport
from .namespace import Namespace

_E = TypeVar("_E", bound=IntEnum)
_T = TypeVar("_T")


def joined(hashes: bytes | Iterable[bytes], width: int) -> bytes:
    """The hashes one after the other, each `width` bytes."""
    if isinstance(hashes, (bytes, bytearray, memoryview)):
        return bytes(hashes)
    # Checked one by one: two wrong lengths can make a right sum, and so name other blocks.
    try:
        hashes = list(hashes)
        wrong = {len(one) for one in hashes} - {width}
        all_bytes = b"".join(hashes)
    except TypeError as error:
        raise Invalid(f"block hashes are bytes, each of {width}: {error}") from error
    if wrong:
        raise Invalid(
            f"a block hash has {min(wrong)} bytes: this namespace declared hash_bytes {width}"
        )
    return all_bytes


def hello(
    client_id: str,
    client_name: str,
    namespace: Namespace,
    engine: str,
    prefill_tokens_per_s: int | None,
) -> Any:
    own = {one.name: getattr(namespace, one.name) for one in fields(namespace)}
    return built(
        "HelloRequest",
        protocol_version=_wire.PROTOCOL_VERSION,
        client_id=client_id,
        client_name=client_name,
        namespace=built("Namespace", **own),
        engine=engine,
        prefill_tokens_per_s=prefill_tokens_per_s,
    )


def built(name: str, **values: Any) -> Any:
    """The message `name`; values that it cannot hold are the caller's mistake."""
    named = {key: value for key, value in values.items() if value is not None}
    try:
        return _wire.message(name)(**named)
    except (TypeError, ValueError, OverflowError) as error:
        raise Invalid(_misfit(name, named, error)) from error


def _misfit(name: str, named: Mapping[str, Any], error: Exception) -> str:
    """Which of the values the message cannot hold."""
    for field, value in named.items():
        try:
            _wire.message(name)(**{field: value})
        except (TypeError, ValueError, OverflowError) as why:
            return f"{field}={reprlib.repr(value)} does not fit {name}: {why}"
    return f"{name}: {error}"


def cuda_memory(pool: CudaPool) -> Any:
    """How the daemon opens a pool on a GPU."""
    return built(
        "CudaMemory",
        device_uuid=pool.device_uuid,
        memories=pool.memories,
        layers=[built("CudaLayer", **vars(layer)) for layer in pool.layers],
        ready_events=pool.ready_events,
    )


def slots(places: Any) -> list[int]:
    """Slot numbers, of a list or an array."""
    as_list = getattr(places, "tolist", None)
    try:
        return as_list() if as_list is not None else list(places)
    except TypeError as error:
        given = reprlib.repr(places)
        raise Invalid(f"slots is {given}: give slot numbers, as a list or an array") from error


def directives(given: Iterable[hints.Directive]) -> list[Any]:
    takes = "a hints.Directive"
    return [
        built("Directive", tokens=_range(one.tokens), wish=_wish(one.wish))
        for one in arguments.each_of("directives", given, hints.Directive, takes)
    ]


def actions(given: Iterable[hints.Action], width: int) -> list[Any]:
    given = arguments.each_of("actions", given, hints.Action, hints.ACTION_TAKES)
    return [
        built("Action", action_id=action_id, **{_field(action): _action(action, width)})
        for action_id, action in hints.named(given)
    ]


def envelope(given: Mapping[str, Any] | str | bytes) -> bytes:
    """An envelope as JSON, from an object or from text."""
    if isinstance(given, bytes):
        return given
    try:
        return (given if isinstance(given, str) else json.dumps(given)).encode()
    except (TypeError, ValueError) as error:
        raise Invalid(f"envelope is no JSON ({error}): hints.envelope makes one") from error


def welcome(message: Any) -> answers.Welcome:
    return answers.Welcome(
        message.protocol_version,
        message.daemon_version,
        message.node_id,
        message.frame_bytes,
        message.lease_ttl_ms,
        _same(answers.Limits, message.limits),
    )


def lookup(message: Any, epoch: int) -> answers.Lookup:
    return answers.Lookup(
        runs=tuple(answers.Run(_tier(run.tier), run.blocks, run.ready_us) for run in message.runs),
        matched_blocks=message.matched_blocks,
        lease_id=message.lease_id if message.HasField("lease_id") else None,
        lease_expires_unix_us=message.lease_expires_unix_us,
        plan=_plan(message.plan),
        epoch=epoch,
    )


def borrowed(message: Any, epoch: int) -> Borrowed:
    return Borrowed(
        starts={one.index: one.start_bytes for one in message.blocks},
        clipped_blocks=message.clipped_blocks,
        shard_stride_bytes=message.shard_stride_bytes,
        layer_stride_bytes=message.layer_stride_bytes,
        plane_stride_bytes=message.plane_stride_bytes,
        epoch=epoch,
    )


def hbm_memory(message: Any) -> tuple[int, CudaExport | None]:
    """The HBM tier's length, and how it is opened where it is on a GPU."""
    if not message.HasField("cuda"):
        return message.bytes, None
    return message.bytes, CudaExport(message.cuda.device_uuid, message.cuda.handle)


def overlap(message: Any) -> answers.Overlap:
    return answers.Overlap(
        matched_blocks=message.matched_blocks,
        matched_tokens=message.matched_tokens,
        block_tokens=message.block_tokens,
        fastest_blocks={_tier(one.tier): one.blocks for one in message.fastest},
        held_blocks={_tier(one.tier): one.blocks for one in message.held},
    )


def tiers(numbers: Iterable[int]) -> frozenset[Tier]:
    return frozenset(map(_tier, numbers))


def tokens(ids: Iterable[int]) -> bytes:
    """Token ids as the protocol has them: four bytes each, little-endian."""
    numbers = arguments.whole_numbers("token_ids", ids)
    # numpy would wrap what does not fit.
    wrong = next((one for one in numbers if not 0 <= one < 1 << 32), None)
    if wrong is not None:
        raise Invalid(f"token_ids has {wrong}: a token is a number of 32 bits, 0 or more")
    return np.array(numbers, dtype="<u4").tobytes()


def completion(message: Any) -> answers.Completion:
    return answers.Completion(
        op_id=message.op_id,
        request_id=message.request_id,
        kind=_known(answers.OpKind, message.kind),
        blocks=message.blocks,
        failed=tuple(message.failed),
        not_durable=tuple(message.not_durable),
    )


def lift(message: Any) -> answers.Lift:
    return _same(
        answers.Lift,
        message,
        state=_known(answers.LiftState, message.state),
        reason=_known(answers.LiftReason, message.reason),
        to=_tier(message.to),
    )


def usage(message: Any) -> answers.Usage:
    used = message.usage
    return answers.Usage(
        read={_tier(one.tier): one.tokens for one in used.read},
        created_5m_tokens=used.created_5m_tokens,
        created_1h_tokens=used.created_1h_tokens,
        uncached_tokens=used.uncached_tokens,
    )


def outcomes(message: Any) -> tuple[answers.Outcome, ...]:
    return tuple(
        answers.Outcome(
            action_id=one.action_id,
            status=_known(answers.OutcomeStatus, one.status),
            blocks=one.blocks,
            clipped=one.clipped,
            message=one.message,
            operation_id=one.operation_id if one.HasField("operation_id") else None,
        )
        for one in message.outcomes
    )


def sessions(message: Any) -> answers.Sessions:
    known = (
        _same(
            answers.SessionInfo,
            one,
            state=_known(answers.SessionState, one.state),
            stop=_known(answers.Stop, one.stop),
        )
        for one in message.sessions
    )
    return answers.Sessions(tuple(known), message.sessions_total)


def block(message: Any) -> answers.Block:
    record = message.record
    return _same(
        answers.Block,
        message,
        parent=message.parent if message.HasField("parent") else None,
        record=_same(
            answers.Record,
            record,
            kind=_known(answers.Kind, record.kind),
            floor=_tier(record.floor),
            scope=_known(answers.Scope, record.scope),
        ),
        copies={_tier(one.tier): answers.CopyState(one.state) for one in message.copies},
    )


def status(message: Any) -> answers.Status:
    tiers = {_tier(one.tier): one for one in message.tiers}
    links = {_known(answers.Link, one.link): one for one in message.links}
    return _same(
        answers.Status,
        message,
        tiers={tier: _tier_status(tier, one) for tier, one in tiers.items()},
        links={link: _same(answers.LinkStatus, one, link=link) for link, one in links.items()},
        lifts=_same(answers.LiftCounts, message.lifts),
        nvme_writes=_nvme_writes(message.nvme_writes),
        facts=dict(message.facts),
    )


def _tier_status(tier: Tier, message: Any) -> answers.TierStatus:
    outage = message.outage if message.HasField("outage") else None
    return _same(answers.TierStatus, message, tier=tier, outage=outage)


def _nvme_writes(message: Any) -> answers.NvmeWrites:
    is_limited = message.HasField("budget_left_bytes")
    left = message.budget_left_bytes if is_limited else None
    return _same(answers.NvmeWrites, message, budget_left_bytes=left)


def _plan(message: Any) -> answers.LoadPlan:
    rate_known = message.HasField("recompute_us")
    return _same(
        answers.LoadPlan, message, recompute_us=message.recompute_us if rate_known else None
    )


def _same(into: type[_T], message: Any, /, **others: Any) -> _T:
    """An `into` of the message's fields of the same names, but for `others`."""
    names = [one.name for one in fields(cast(Any, into)) if one.name not in others]
    return into(**{name: getattr(message, name) for name in names}, **others)


def _tier(number: int) -> Tier:
    try:
        return Tier(number)
    except ValueError:
        raise DaemonFault(f"it named a tier unknown here ({number}): upgrade the client") from None


def _known(kind: type[_E], number: int) -> _E:
    """What a newer daemon may say beyond this is unknown, not an error."""
    try:
        return kind(number)
    except ValueError:
        return kind(0)


def _range(tokens: hints.TokenRange | None) -> Any:
    if tokens is None:
        return None
    arguments.one_of("tokens", tokens, hints.TokenRange, "a hints.TokenRange, or None for all")
    return built("TokenRange", start=tokens.start, end=tokens.end)


def _wish(wish: hints.Wish) -> Any:
    arguments.one_of("wish", wish, hints.Wish, "a hints.Wish")
    return built("Wish", **{one.name: getattr(wish, one.name) for one in fields(wish)})


def _field(action: hints.Action) -> str:
    """The name of an action's field: that of its type in the envelope, but for one."""
    if isinstance(action, hints.CancelPrefetch):
        return "cancel_prefetch"
    if not action.action_type:
        raise Invalid("hints.Action says nothing by itself: give one of its kinds, as hints.Pin")
    return action.action_type.replace(".", "_")


def _action(action: hints.Action, width: int) -> Any:
    values = {
        one.name: getattr(action, one.name) for one in fields(action) if one.name != "action_id"
    }
    in_its_place = isinstance(action, hints.SpeculativePrefill) and action.session is not None
    if "target" in values and not (in_its_place and values["target"] is None):
        values["target"] = _target(values["target"], width)
    if "wish" in values:
        values["wish"] = _wish(values["wish"])
    return built(f"Action.{type(action).__name__}", **values)


def _target(target: hints.Target, width: int) -> Any:
    kinds = (hints.Blocks, hints.SessionTokens, hints.SessionTree)
    takes = "hints.Blocks, hints.SessionTokens or hints.SessionTree"
    arguments.one_of("target", target, kinds, takes)
    if isinstance(target, hints.Blocks):
        return built("Target", hashes=joined(target.hashes, width))
    if isinstance(target, hints.SessionTree):
        return built("Target", session_tree=target.session)
    tokens = _range(target.tokens)
    return built(
        "Target", session=built("Target.SessionTokens", session=target.session, tokens=tokens)
    )
