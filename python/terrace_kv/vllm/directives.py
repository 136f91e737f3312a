"""A request's directives, said once of each block.

The daemon counts a store's directives for all of the chain that the store reaches. So a request's
first store says them all, of what earlier requests stored as well, and each later one says those of
its own blocks: promises to forget are not put off, and no store costs the length of its chain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .. import hints

_ALL = hints.TokenRange()


def beyond(directives: Iterable[hints.Directive], first: int) -> list[hints.Directive]:
    """The directives of the tokens from `first` on."""
    made = []
    for one in directives:
        tokens = one.tokens or _ALL
        if tokens.end is None or tokens.end > first:
            kept = hints.TokenRange(max(tokens.start, first), tokens.end)
            made.append(replace(one, tokens=kept))
    return made


def retains(
    directives: Iterable[hints.Directive],
    session: str | None,
    hashes: Sequence[bytes],
    block_tokens: int,
) -> list[hints.Action]:
    """The same for a request without a store: of the session's chain, else of blocks by name."""
    made: list[hints.Action] = []
    for one in directives:
        tokens = one.tokens or _ALL
        if session is not None:
            made.append(hints.Retain(hints.SessionTokens(session, tokens), one.wish))
            continue
        after = len(hashes) if tokens.end is None else -(-tokens.end // block_tokens)
        covered = hashes[tokens.start // block_tokens : after]
        if covered:
            made.append(hints.Retain(hints.Blocks(covered), one.wish))
    return made
