"""The end of a request, told once nothing of the request is under way to the daemon any more.

A store or a lookup that comes after it would open the request again, and start anew a session that
had ended: with it what the session left behind would count as used.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from typing import TYPE_CHECKING

from .. import hints
from .lookups import Question
from .telling import Saying

if TYPE_CHECKING:
    from ..answers import Outcome
    from ..client import Client


class Ending(Saying):
    """One request's end, and what it says of its session."""

    def __init__(
        self,
        request: int,
        output_tokens: int,
        after: Sequence[hints.Action],
        questions: Iterable[Question],
        stores: Iterable[int],
        stores_under_way: Container[int],
        unsaid: Callable[[], Sequence[hints.Action]] = tuple,
    ) -> None:
        """It comes after `stores`, jobs by their numbers, and after the answers of `questions`;
        `unsaid` is what these should have said of the request's blocks and did not."""
        super().__init__(self._say)
        self._request = request
        self._output_tokens = output_tokens
        self._after = list(after)
        self._questions = list(questions)
        self._stores = list(stores)
        self._under_way = stores_under_way
        self._unsaid = unsaid

    def is_ready(self) -> bool:
        # What is over is not looked at again: this is asked at every end of a store.
        while self._stores and self._stores[-1] not in self._under_way:
            self._stores.pop()
        while self._questions and not self._questions[-1].unanswered:
            self._questions.pop()
        return not (self._stores or self._questions)

    def goes_on(self, session: str) -> None:
        """A later request belongs to the session: it does not end with this one."""
        ended = hints.SessionEnd(session)
        self._after = [action for action in self._after if action != ended]

    def _say(self, client: Client) -> Sequence[Outcome]:
        client.end_request(self._request, output_tokens=self._output_tokens)
        said = [*self._unsaid(), *self._after]
        return client.hint(*said) if said else ()
