"""What the scheduler's side asks of the workers, and what they report. Travels by pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..hints import Directive

# Blocks of one call; longer runs are several.
BLOCKS_A_CALL_MAX = 4096
# How long a store may wait for its turn on a rank, and how long it may then take.
STORE_S_MAX = 60.0


@dataclass(frozen=True)
class Load:
    """Blocks to be loaded into the engine's cache."""

    # Names the job in reports.
    number: int
    request_id: str
    # The engine's number for the request.
    request: int
    hashes: bytes
    slots: Sequence[int]


@dataclass(frozen=True)
class Store:
    """Blocks that the engine has computed, a run of one chain."""

    number: int
    request: int
    hashes: bytes
    slots: Sequence[int]
    # The hash of the block before the first; None at the chain's root.
    parent: bytes | None
    session: str | None
    directives: Sequence[Directive]


@dataclass
class Step:
    """The jobs of one scheduler step."""

    loads: list[Load] = field(default_factory=list)
    stores: list[Store] = field(default_factory=list)


@dataclass(frozen=True)
class Over:
    """A job that will touch its slots no more: on how many ranks, and how many of a store's blocks,
    from the first on, are kept on all of them."""

    ranks: int
    kept_blocks: int
    # On a rank nothing came of it, as far as is known: there was no daemon, no time or no turn.
    missed: bool = False
    # On a rank the call itself was refused, so the daemon has taken no word of it.
    refused: bool = False

    def merge(self, other: Over) -> Over:
        """What is over on both one's and the other's ranks."""
        return Over(
            self.ranks + other.ranks,
            min(self.kept_blocks, other.kept_blocks),
            self.missed or other.missed,
            self.refused or other.refused,
        )


@dataclass
class Report:
    """What one or several ranks know since their last report."""

    over: dict[int, Over] = field(default_factory=dict)
    # Loads that were given up while the daemon may still write: their slots must be held.
    lingering: set[int] = field(default_factory=set)
    # Requests of which a block could not be loaded.
    failed_requests: set[str] = field(default_factory=set)

    def merge(self, other: Report) -> Report:
        """Both ranks' reports as one."""
        over = dict(self.over)
        for number, more in other.over.items():
            over[number] = over[number].merge(more) if number in over else more
        return Report(
            over,
            self.lingering | other.lingering,
            self.failed_requests | other.failed_requests,
        )

    def __bool__(self) -> bool:
        return bool(self.over or self.lingering or self.failed_requests)
