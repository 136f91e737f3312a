"""What a request says of caching, in the daemon's terms.

Read from the request's `kv_transfer_params`, its `session_id` and its `kv_hints`. What makes no
sense is noted and left out: a hint never makes a request fail. The rules are those of
`terrace::hints::lower` in the daemon's library, as far as they can be without the request's body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from .. import hints
from . import wishes
from .wishes import PRIORITY_MAX, is_token, is_whole

PRIORITY_DEFAULT = 35
DIRECTIVES_MAX, BREAKPOINTS_MAX = 64, 4
# What Dynamo clamps the TTL of its cache control to, in seconds.
TTL_S_MIN, TTL_S_MAX = 300, 3600
SESSION_BYTES_MAX = 128

_T = TypeVar("_T")


@dataclass
class RequestHints:
    """What one request says."""

    session: str | None = None
    directives: tuple[hints.Directive, ...] = ()
    # To be sent before the request's lookup, and after its end.
    before: list[hints.Action] = field(default_factory=list)
    after: list[hints.Action] = field(default_factory=list)
    # The session ends with this request, unless others of it go on.
    final: bool = False
    # The engines' envelope, as it came.
    envelope: Mapping[str, Any] | None = None
    # What was not taken, for the log.
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Claim:
    """A wish for the tokens `start` to before `end`; later claims say more of the same tokens."""

    start: int
    end: int | None
    wish: hints.Wish


def of(request: Any) -> RequestHints:
    """What a request of vLLM's says."""
    envelope = getattr(request, "kv_hints", None)
    return read(
        request.kv_transfer_params,
        getattr(request, "session_id", None),
        _plain(envelope) if envelope is not None else None,
        request.num_prompt_tokens,
    )


def read(
    params: Mapping[str, Any] | None,
    session_id: str | None,
    envelope: Mapping[str, Any] | None,
    prompt_tokens: int,
) -> RequestHints:
    """Lowers a request's fields. `params` are its `kv_transfer_params`."""
    params = params if isinstance(params, Mapping) else {}
    own = _part(params, "terrace")
    nvext = {**params, **_part(params, "nvext")}
    made = RequestHints(envelope=envelope)
    own_envelope = params.get("kv_hints")
    if envelope is None and isinstance(own_envelope, Mapping):
        made.envelope = own_envelope
    reader = _Reader(made.notes)
    _sessions(made, reader, own, nvext, session_id)
    claims = list(reader.shields(nvext.get("cache_control"), prompt_tokens))
    agent = _part(nvext, "agent_hints")
    claims += reader.priorities(agent.get("priority"))
    claims += reader.directives(own.get("directives"))
    made.directives = tuple(reader.last("directives", spans(claims)))
    if agent.get("speculative_prefill") is True:
        _speculate(made)
    return made


def _plain(envelope: Any) -> dict[str, Any]:
    """vLLM's envelope as JSON has it."""
    names = ("action_id", "action_type", "action_version", "payload")
    return {
        "protocol_version": envelope.protocol_version,
        "message_id": envelope.message_id,
        "actions": [{name: getattr(one, name) for name in names} for one in envelope.actions],
    }


def _sessions(
    made: RequestHints,
    reader: _Reader,
    own: Mapping[str, Any],
    nvext: Mapping[str, Any],
    session_id: str | None,
) -> None:
    context, control = _part(nvext, "agent_context"), _part(nvext, "session_control")
    named = (own.get("session"), control.get("session_id"), context.get("session_id"), session_id)
    made.session = next((one for one in map(reader.session, named) if one), None)
    if made.session is None:
        return
    parent = reader.session(own.get("parent") or context.get("parent_session_id"))
    if parent or control.get("action") == "open":
        made.before.append(hints.SessionStart(made.session, parent))
    final = own.get("final") is True or context.get("session_final") is True
    made.final = final or control.get("action") == "close"


def _speculate(made: RequestHints) -> None:
    """The session's next turn begins with the chain that this request reaches."""
    if made.session is None:
        made.notes.append("agent_hints.speculative_prefill needs a session: nothing is lifted")
    elif made.final:
        made.notes.append("agent_hints.speculative_prefill: the session ends with this request")
    else:
        made.after.append(hints.SpeculativePrefill(hints.SessionTokens(made.session)))


class _Reader:
    """Reads single fields; what makes no sense becomes a note."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def session(self, name: Any) -> str | None:
        if name is None or name == "":
            return None
        encoded = name.encode(errors="replace") if isinstance(name, str) else b""
        # A text with lone surrogates comes back changed: no message holds it.
        if len(encoded) > SESSION_BYTES_MAX or encoded.decode() != name:
            self._notes.append(f"a session is a text of at most {SESSION_BYTES_MAX} bytes")
            return None
        return str(name)

    def shields(self, control: Any, prompt_tokens: int) -> Iterable[_Claim]:
        """`cache_control`: of the whole prompt, or a list of breakpoints with their `end`s."""
        if control is None:
            return
        marks = control if isinstance(control, (list, tuple)) else [control]
        if len(marks) > BREAKPOINTS_MAX:
            self._notes.append(f"cache_control: at most {BREAKPOINTS_MAX} breakpoints are taken")
        read = [self._shield(mark, prompt_tokens) for mark in marks[:BREAKPOINTS_MAX]]
        # Where several cover a token the longest counts, so it is said last.
        yield from sorted((one for one in read if one), key=lambda one: one.wish.ttl_ms or 0)

    def _shield(self, mark: Any, prompt_tokens: int) -> _Claim | None:
        kind = mark.get("type", "ephemeral") if isinstance(mark, Mapping) else None
        if kind != "ephemeral":
            self._notes.append("cache_control: its type must be ephemeral")
            return None
        ttl_s, end = _seconds(mark.get("ttl", TTL_S_MIN)), mark.get("end", prompt_tokens)
        if ttl_s is None or not is_token(end) or end < 1:
            self._notes.append("cache_control: ttl is 5m, 1h or seconds, end a number of tokens")
            return None
        ttl_ms = min(max(ttl_s, TTL_S_MIN), TTL_S_MAX) * 1000
        return _Claim(0, end, hints.Wish(ttl_ms=ttl_ms, refresh_on_hit=True))

    def priorities(self, given: Any) -> list[_Claim]:
        """Dynamo's priorities have no bounds and start at 0; ours have both."""
        if given is None:
            return []
        if not is_whole(given):
            self._notes.append("agent_hints.priority is no whole number")
            return []
        priority = min(max(given + PRIORITY_DEFAULT, 0), PRIORITY_MAX)
        return [_Claim(0, None, hints.Wish(priority=priority))]

    def directives(self, given: Any) -> list[_Claim]:
        """`terrace.directives`: objects with `start`, `end` and the fields of a wish."""
        listed = given if isinstance(given, (list, tuple)) else []
        if given is not None and listed is not given:
            self._notes.append("terrace.directives is a list of objects")
        made = (self._directive(one) for one in self.last("terrace.directives", listed))
        return [one for one in made if one is not None]

    def last(self, what: str, listed: Sequence[_T]) -> Sequence[_T]:
        """As many as a store may have: what comes first was mostly said by an earlier request."""
        if len(listed) > DIRECTIVES_MAX:
            self._notes.append(f"{what}: only the last {DIRECTIVES_MAX} of a request are taken")
        return listed[-DIRECTIVES_MAX:]

    def _directive(self, given: Any) -> _Claim | None:
        try:
            named = dict(given)
            start, end = named.pop("start", 0), named.pop("end", None)
            wish = wishes.read(named)
        except (TypeError, ValueError) as error:
            self._notes.append(f"terrace.directives: one is left out (docs/hints.md): {error}")
            return None
        open_or_after = end is None or (is_token(end) and end > start)
        if not is_token(start) or not open_or_after:
            self._notes.append("terrace.directives: a range is start to before end, in tokens")
            return None
        return _Claim(start, end, wish)


def spans(claims: Iterable[_Claim]) -> list[hints.Directive]:
    """Claims that may overlap as directives that do not: of each token what was said last of each
    field, neighbours that ask for the same as one."""
    claims = list(claims)
    starts = {0, *(one.start for one in claims)}
    starts |= {one.end for one in claims if one.end is not None}
    cuts = sorted(starts)
    made: list[hints.Directive] = []
    for start, end in zip(cuts, [*cuts[1:], None], strict=True):
        wish = _wish_at(claims, start)
        last = made[-1] if made else None
        if last is not None and last.tokens and (last.wish, last.tokens.end) == (wish, start):
            made[-1] = replace(last, tokens=hints.TokenRange(last.tokens.start, end))
        elif wish != hints.Wish():
            made.append(hints.Directive(wish, hints.TokenRange(start, end)))
    return made


def _wish_at(claims: Iterable[_Claim], token: int) -> hints.Wish:
    said: dict[str, Any] = {}
    for one in claims:
        if one.start <= token and (one.end is None or token < one.end):
            values = {f.name: getattr(one.wish, f.name) for f in fields(one.wish)}
            said |= {name: value for name, value in values.items() if value is not None}
    return hints.Wish(**said)


def _part(object_: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = object_.get(name)
    return part if isinstance(part, Mapping) else {}


def _seconds(ttl: Any) -> int | None:
    """Whole seconds, or a number with s, m or h."""
    if is_whole(ttl):
        return int(ttl)
    units = {"s": 1, "m": 60, "h": 3600}
    if not isinstance(ttl, str) or ttl[-1:] not in units:
        return None
    number = ttl[:-1]
    return int(number) * units[ttl[-1]] if number.isdecimal() and len(number) < 10 else None
