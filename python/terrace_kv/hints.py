"""What agents and engines say beside their requests: wishes, directives and actions.

One set of types for both spellings: the typed call and the engines' JSON envelope. Nothing is
checked here; the daemon answers action by action. Times are in milliseconds, tokens are counted
from the chain's root. docs/hints.md says what becomes of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from . import arguments
from .answers import Kind, Scope, Tier

ENVELOPE_VERSION = "0.1"
ACTION_VERSION = "1.0"

# What is said to whoever gives something else for an action.
ACTION_TAKES = "an action such as hints.Pin(...)"


@dataclass(frozen=True)
class Wish:
    """What is asked for. What is not named stays as it is."""

    priority: int | None = None
    priority_ms: int | None = None
    ttl_ms: int | None = None
    refresh_on_hit: bool | None = None
    delete_after_ms: int | None = None
    kind: Kind | None = None
    floor: Tier | None = None
    scope: Scope | None = None

    def payload(self) -> dict[str, Any]:
        """The fields that are named, as the envelope spells them."""
        named = ((one.name, getattr(self, one.name)) for one in fields(self))
        return {name: _word(value) for name, value in named if value is not None}


@dataclass(frozen=True)
class TokenRange:
    """Tokens `start` to before `end`; without an end, to the end of what there is."""

    start: int = 0
    end: int | None = None

    def payload(self) -> dict[str, Any]:
        return {"start": self.start} | ({} if self.end is None else {"end": self.end})


@dataclass(frozen=True)
class Directive:
    """A wish for a stretch of a request's tokens, sent with `store`."""

    wish: Wish
    # None: all tokens.
    tokens: TokenRange | None = None


@dataclass(frozen=True)
class Blocks:
    """Blocks by the engine's hashes."""

    hashes: Sequence[bytes]

    def payload(self) -> dict[str, Any]:
        takes = "a block's hash, as bytes; one after the other only a client takes them"
        hashes = arguments.each_of("hashes", self.hashes, bytes, takes)
        return {"hashes": [one.hex() for one in hashes]}


@dataclass(frozen=True)
class SessionTokens:
    """The chain that a session's last request reached, or a stretch of it."""

    session: str
    tokens: TokenRange | None = None

    def payload(self) -> dict[str, Any]:
        tokens = {} if self.tokens is None else {"tokens": self.tokens.payload()}
        return {"session": self.session} | tokens


@dataclass(frozen=True)
class SessionTree:
    """The chains of a session and of all sessions below it."""

    session: str

    def payload(self) -> dict[str, Any]:
        return {"session_tree": self.session}


Target = Blocks | SessionTokens | SessionTree


@dataclass(frozen=True)
class Action:
    """What all actions have; use one of the classes below."""

    action_type: ClassVar[str] = ""
    # The caller's name for it in its outcome; its place in the call where none is given.
    action_id: str | None = field(default=None, kw_only=True)

    def payload(self) -> dict[str, Any]:
        """What the envelope carries of it."""
        made: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "action_id" or value is None or value is False:
                continue
            if isinstance(value, Wish):
                made |= value.payload()
            else:
                as_payload = getattr(value, "payload", None)
                made[one.name] = as_payload() if as_payload else _word(value)
        return made


@dataclass(frozen=True)
class Retain(Action):
    """Sets what the wish names of the blocks' records."""

    action_type: ClassVar[str] = "retain"
    target: Target
    wish: Wish


@dataclass(frozen=True)
class Pin(Action):
    """As Retain with a shield: of five minutes, renewed by hits, where the wish names none."""

    action_type: ClassVar[str] = "pin"
    target: Target
    wish: Wish = Wish()


@dataclass(frozen=True)
class Release(Action):
    """Takes shields and raised priorities off again."""

    action_type: ClassVar[str] = "release"
    target: Target


@dataclass(frozen=True)
class Demote(Action):
    """The blocks' copies above `to` go first when room is needed."""

    action_type: ClassVar[str] = "demote"
    target: Target
    to: Tier


@dataclass(frozen=True)
class SessionStart(Action):
    """A session begins; with a parent it is a sub-agent's."""

    action_type: ClassVar[str] = "session.start"
    session: str
    parent: str | None = None


@dataclass(frozen=True)
class SessionReset(Action):
    """The history was summarised: what the next request does not reach is dead."""

    action_type: ClassVar[str] = "session.reset"
    session: str


@dataclass(frozen=True)
class SessionEnd(Action):
    """What only this session reaches is dead; with `tree`, all sessions below it end too."""

    action_type: ClassVar[str] = "session.end"
    session: str
    tree: bool = False


@dataclass(frozen=True)
class ToolStart(Action):
    """A tool runs, and is expected back after so long."""

    action_type: ClassVar[str] = "tool.start"
    session: str
    expected_ms: int | None = None


@dataclass(frozen=True)
class ToolReturn(Action):
    """The tool came back."""

    action_type: ClassVar[str] = "tool.return"
    session: str


@dataclass(frozen=True)
class Prefetch(Action):
    """Lifts the blocks towards the engine, to be there within `deadline_ms` (30 s without).

    The outcome's `operation_id` can be cancelled. `to`: the fastest tier without one.
    """

    action_type: ClassVar[str] = "prefetch"
    target: Target
    to: Tier | None = None
    deadline_ms: int | None = None
    priority: int | None = None


@dataclass(frozen=True)
class SpeculativePrefill(Action):
    """The engine is about to prefill this chain: it is lifted to the fastest tier now and held.

    `session` in place of the target: that session's last chain.
    """

    action_type: ClassVar[str] = "speculative_prefill"
    target: Target | None = None
    deadline_ms: int | None = None
    priority: int | None = None
    session: str | None = None


@dataclass(frozen=True)
class CancelPrefetch(Action):
    """What of a lift has not moved yet stays where it is; what it holds is held no longer."""

    action_type: ClassVar[str] = "prefetch.cancel"
    operation_id: int


def named(actions: Iterable[Action]) -> list[tuple[str, Action]]:
    """Each action with its id."""
    return [
        (str(place) if action.action_id is None else action.action_id, action)
        for place, action in enumerate(actions)
    ]


def envelope(actions: Iterable[Action], message_id: str) -> Mapping[str, Any]:
    """The actions in the engines' envelope, to be sent by `hint_envelope` or through an engine."""
    actions = arguments.each_of("actions", actions, Action, ACTION_TAKES)
    return {
        "protocol_version": ENVELOPE_VERSION,
        "message_id": message_id,
        "actions": [
            {
                "action_id": action_id,
                "action_type": action.action_type,
                "action_version": ACTION_VERSION,
                "payload": action.payload(),
            }
            for action_id, action in named(actions)
        ],
    }


def _word(value: Any) -> Any:
    return value.name.lower() if isinstance(value, (Kind, Scope, Tier)) else value
