"""What the connector has told routers of blocks in the daemon.

It hears of stores that ended, and at lookups of blocks that are not there any more. The daemon's
own events know every move; these are for routers that follow vLLM's stream alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

_ANNOUNCED_MAX = 1 << 18


class Announced:
    """Blocks that were announced as stored."""

    def __init__(self, announced_max: int = _ANNOUNCED_MAX) -> None:
        self._max = announced_max
        self._hashes: OrderedDict[bytes, None] = OrderedDict()

    def stored(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Announces blocks; gives those that are forgotten for that, the oldest first."""
        for one in hashes:
            self._hashes[one] = None
            self._hashes.move_to_end(one)
        surplus = max(0, len(self._hashes) - self._max)
        return [self._hashes.popitem(last=False)[0] for _ in range(surplus)]

    def looked_up(self, hashes: Sequence[bytes], found_blocks: int) -> list[bytes]:
        """A chain was found up to `found_blocks`: gives those behind it that were announced."""
        missing = [one for one in hashes[found_blocks:] if one in self._hashes]
        for one in missing:
            del self._hashes[one]
        return missing

    def forget(self) -> list[bytes]:
        """None of them counts any more: gives them all."""
        hashes, self._hashes = list(self._hashes), OrderedDict()
        return hashes
