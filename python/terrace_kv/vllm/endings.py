"""The ends of requests and sessions, told once nothing that is under way could open them again.

A store or a lookup that comes after the end of its request would open it anew, and a session that
had ended with it: what the session left behind would count as used. So a request's end waits for
its own stores and lookups, and a session's end is told with the last end of its requests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from .. import hints
from .directives import retains
from .hints import RequestHints
from .telling import Saying

if TYPE_CHECKING:
    from ..answers import Outcome
    from ..client import Client


class Pending(Protocol):
    """A store or a lookup."""

    @property
    def over(self) -> bool: ...


class Session:
    """A session of open requests."""

    def __init__(self, name: str) -> None:
        self.name = name
        # Its open requests, by their numbers.
        self.requests: set[int] = set()
        # The one that arrived last, if the daemon takes its chain for the session's.
        self.latest: int | None = None
        # A request that is over was to be its last, and none has arrived since.
        self.final = False


@dataclass
class OpenRequest:
    """A request from its arrival on until its end is told, or will not be."""

    number: int
    said: RequestHints
    session: Session | None
    # A store said its directives of the whole chain, as far as is known.
    directed: bool = False
    _pending: deque[Pending] = field(default_factory=deque)

    def began(self, one: Pending) -> None:
        self.is_quiet()
        self._pending.append(one)

    def finished(self) -> None:
        if self.session is not None and self.said.final:
            self.session.final = True

    def unanswered(self) -> None:
        """Its lookup was: the daemon may take an earlier request's chain for the session's."""
        if self.session is not None and self.session.latest == self.number:
            self.session.latest = None

    def is_quiet(self) -> bool:
        """Whether nothing of it is under way to the daemon."""
        while self._pending and self._pending[0].over:
            self._pending.popleft()
        return not self._pending


class Sessions:
    """The sessions of open requests: each is known for as long as one of these is."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Session] = WeakValueDictionary()

    def open(self, number: int, said: RequestHints) -> OpenRequest:
        """A request arrives: it takes its session up again."""
        if said.session is None:
            return OpenRequest(number, said, None)
        session = self._known.get(said.session) or Session(said.session)
        self._known[session.name] = session
        session.requests.add(number)
        session.latest = number
        session.final = False
        return OpenRequest(number, said, session)


class Ending(Saying):
    """One request's end, and that of its session where it is the last."""

    def __init__(
        self, open_: OpenRequest, output_tokens: int, hashes: Sequence[bytes], block_tokens: int
    ) -> None:
        """`hashes`: the blocks of the request that the daemon has, or was offered."""
        super().__init__(self._say)
        self._open = open_
        self._output_tokens = output_tokens
        self._hashes = hashes
        self._block_tokens = block_tokens

    def is_ready(self) -> bool:
        return self._open.is_quiet()

    def over(self) -> None:
        if self._open.session is not None:
            self._open.session.requests.discard(self._open.number)

    def _say(self, client: Client) -> Sequence[Outcome]:
        client.end_request(self._open.number, output_tokens=self._output_tokens)
        said = [*self._directives(), *self._open.said.after, *self._session_end()]
        return client.hint(*said) if said else ()

    def _directives(self) -> list[hints.Action]:
        """What no store said of the request's blocks: as the session's word while its chain is this
        request's, since the word of nobody in particular counts for less."""
        if self._open.directed or not self._hashes:
            return []
        session = self._open.session
        named = session.name if session and session.latest == self._open.number else None
        return retains(self._open.said.directives, named, self._hashes, self._block_tokens)

    def _session_end(self) -> list[hints.Action]:
        session = self._open.session
        if session is None or not session.final or session.requests != {self._open.number}:
            return []
        return [hints.SessionEnd(session.name)]
