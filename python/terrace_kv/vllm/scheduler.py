"""The scheduler's side: which blocks a request loads, and which are offered to the daemon.

Everything here happens inside vLLM's scheduler step, so nothing waits: lookups are asked when a
request arrives and polled when its turn comes, and jobs go to the workers with the step. Holds
requests as vLLM does (`request_id`, `block_hashes`, `num_tokens`, ...) without knowing vLLM.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..answers import Tier
from .directives import beyond
from .endings import Ending, OpenRequest, Sessions
from .hints import RequestHints
from .holds import Holds
from .jobs import BLOCKS_A_CALL_MAX, Load, Report, Step, Store
from .lookups import NOTHING, Asker, Found, Question
from .names import Names
from .settings import Settings
from .stats import Counts

# vLLM's block ids of a request.
BlockIds = Callable[[str], "Sequence[int] | None"]

# How long nothing of running requests is offered once a rank missed a store.
_MISSED_S = 0.5
# How often in a row a stale answer is asked for anew: leases may be shorter than a step.
_ANEW_MAX = 3


@dataclass
class Tracked:
    """What is known of one request."""

    request: Any
    open: OpenRequest
    question: Question | None = None
    found: Found | None = None
    # How often in a row its answer was stale, and asked for anew.
    asked_anew: int = 0
    # Blocks from the root on that the daemon has, or was offered, and in which session.
    offered_blocks: int = 0
    epoch: int | None = None
    # Blocks that vLLM had itself when it last asked.
    local_blocks: int = 0
    # A step has had the request since vLLM gave it its blocks. Until then a load may be under way,
    # another connector's too, and vLLM counts as computed what is not there yet.
    was_scheduled: bool = False
    # vLLM's caches were reset: the blocks that it has until its next turn are not offered.
    outdated: bool = False
    # A load of it failed: what the daemon has is not asked for again.
    gave_up: bool = False
    # Blocks loaded, by the tier that had them.
    loaded: dict[Tier, int] = field(default_factory=dict)
    # What its load under way needs.
    held: Found | None = None


@dataclass
class Offer:
    """A store, for those who want to hear of its end."""

    tracked: Tracked
    first_block: int
    blocks: int
    # It says the request's directives of the whole chain.
    directs: bool
    # vLLM's caches were reset since.
    outdated: bool = False
    over: bool = False


class SchedulerSide:
    """Decides for one engine."""

    def __init__(
        self,
        asker: Asker,
        settings: Settings,
        *,
        block_tokens: int,
        blocks: int,
        ranks: int,
        loads: bool = True,
        alone: bool = True,
    ) -> None:
        """`loads`: what is found is loaded; else this engine only stores. `alone`: no other engine
        waits for this one's steps."""
        self.block_tokens = block_tokens
        self.holds = Holds(ranks, alone=alone)
        self.counts = Counts()
        # Called with each store that ended, and how many of its blocks are kept.
        self.on_stored: Callable[[Offer, int], None] = lambda offer, kept: None
        # Called with each request that was looked up, and how many of its blocks were found.
        self.on_looked_up: Callable[[Tracked, int], None] = lambda tracked, found: None
        self._asker = asker
        self._names = Names()
        self._settings = settings
        self._loads = loads
        self._stores_max = max(1, blocks * settings.store_percent // 100)
        self._stores_held = 0
        self._requests: dict[str, Tracked] = {}
        self._sessions = Sessions()
        # Stores under way, by the numbers of their jobs.
        self._offers: dict[int, Offer] = {}
        self._offers_from = 0.0
        self._numbers = itertools.count(1)
        self._step = Step()

    def arrived(self, request: Any, said: RequestHints) -> None:
        """A request is new: it is asked for while it waits for its turn."""
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            tracked = Tracked(request, self._sessions.open(next(self._numbers), said))
            self._requests[request.request_id] = tracked
        if tracked.question is not None:
            return
        if request.block_hashes:
            self._ask(tracked, queued=self._loads and len(self._requests) > 1)
        else:
            # Shorter than a block.
            self._asker.announce(_taken(tracked))

    def matched(self, request: Any, computed_tokens: int) -> int | None:
        """Tokens that can be loaded beyond those that vLLM has; None: ask later."""
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            return 0
        tracked.outdated = False
        if tracked.gave_up or not request.block_hashes:
            return 0
        found = self._found(tracked)
        if found is None:
            return None if self._loads else 0
        tracked.offered_blocks = found.blocks
        tracked.local_blocks = computed_tokens // self.block_tokens
        if not self._loads:
            return 0
        worthy = min(found.worthy_blocks, len(request.block_hashes)) * self.block_tokens
        return max(0, worthy - computed_tokens)

    def allocated(self, request: Any, block_ids: Sequence[int], external_tokens: int) -> None:
        """vLLM has given the request its blocks; `external_tokens` of them are to be loaded."""
        tracked = self._requests.get(request.request_id)
        if tracked is None:
            return
        tracked.was_scheduled = False
        found, tracked.question, tracked.found = tracked.found, None, None
        if found is None:
            return
        if external_tokens <= 0:
            self._asker.release(found)
            return
        tracked.held = found
        start = tracked.local_blocks
        end = start + external_tokens // self.block_tokens
        tracked.loaded = found.tiers(start, end)
        for tier, blocks in tracked.loaded.items():
            name = f"loaded_tokens_{tier.name.lower()}"
            self.counts.add(name, blocks * self.block_tokens)
        self.counts.add("found_tokens", external_tokens)
        for first in range(start, end, BLOCKS_A_CALL_MAX):
            last = min(first + BLOCKS_A_CALL_MAX, end)
            self._load(tracked, first, list(block_ids[first:last]))

    def sources(self, request: Any, external_tokens: int) -> dict[Tier, int]:
        """By which tier the tokens of the load just planned are supplied."""
        tracked = self._requests.get(request.request_id)
        loaded = tracked.loaded if tracked is not None else {}
        tokens = {tier: blocks * self.block_tokens for tier, blocks in loaded.items()}
        return tokens if sum(tokens.values()) == external_tokens else {}

    def computed(self, request_id: str, tokens: int, block_ids: BlockIds) -> None:
        """By this step's end the request's first `tokens` tokens are computed: its blocks that are
        whole by then are offered."""
        tracked = self._requests.get(request_id)
        if tracked is None:
            return
        tracked.was_scheduled = True
        if tracked.outdated:
            return
        whole = min(tokens // self.block_tokens, len(tracked.request.block_hashes))
        self._see_epoch(tracked)
        if whole > tracked.offered_blocks:
            may_offer = self._asker.available() and time.monotonic() >= self._offers_from
            ids = block_ids(request_id) if may_offer else None
            if ids is not None:
                self._offer(tracked, whole, ids)

    def reset(self) -> None:
        """vLLM's caches are reset, as for new weights: nothing that was computed before is found or
        offered from now on, be it here or in another engine."""
        self._names.renew()
        for tracked in self._requests.values():
            if tracked.found is not None:
                self._asker.release(tracked.found)
            tracked.question, tracked.found = None, None
            tracked.offered_blocks, tracked.outdated = 0, True
            tracked.loaded = {}
            tracked.open.directed = False
        for offer in self._offers.values():
            offer.outdated = True

    def take_counts(self) -> Counts:
        self.counts.add("dropped_sayings", self._asker.take_dropped())
        return self.counts.take()

    def take_step(self) -> Step:
        """The jobs for the workers."""
        step, self._step = self._step, Step()
        self.holds.stepped()
        return step

    def heard(self, report: Report) -> None:
        """What the workers know since the last step."""
        for request_id in report.failed_requests:
            tracked = self._requests.get(request_id)
            if tracked is not None:
                tracked.gave_up = True
                tracked.loaded = {}
                # What was lost below is offered again.
                tracked.offered_blocks = 0
        over = self.holds.update(report)
        for number, one in over.items():
            offer = self._offers.pop(number, None)
            if offer is not None:
                self._stores_held -= offer.blocks
                if one.missed:
                    self._missed(offer)
                elif one.refused and offer.directs:
                    offer.tracked.open.directed = False
                if not offer.outdated:
                    self.on_stored(offer, one.kept_blocks)
                # Last: the request's end may be told from now on.
                offer.over = True
        if over:
            self._asker.look()

    def loaded(self, request_ids: Sequence[str]) -> None:
        """These requests' loads have ended, well or not."""
        for request_id in request_ids:
            tracked = self._requests.get(request_id)
            if tracked is not None:
                held, tracked.held = tracked.held, None
                if held is not None:
                    self._asker.release(held)

    def finished(
        self, request: Any, computed_tokens: int, block_ids: Sequence[int]
    ) -> Tracked | None:
        """A request is over: what it has computed is offered, and the daemon hears of its end."""
        tracked = self._requests.pop(request.request_id, None)
        if tracked is None:
            return None
        whole = min(computed_tokens // self.block_tokens, len(request.block_hashes), len(block_ids))
        self._see_epoch(tracked)
        may_offer = tracked.was_scheduled and not tracked.outdated
        if may_offer and whole > tracked.offered_blocks:
            self._offer(tracked, whole, block_ids)
            self.counts.add("dropped_blocks", whole - tracked.offered_blocks)
        # Kept until the end is told, so only where it may speak of them.
        spoken_of = tracked.offered_blocks if tracked.open.said.directives else 0
        known = [self._names.of([one]) for one in request.block_hashes[:spoken_of]]
        output_tokens = request.num_tokens - request.num_prompt_tokens
        tracked.open.finished()
        self._asker.say(Ending(tracked.open, output_tokens, known, self.block_tokens))
        return tracked

    def _ask(self, tracked: Tracked, *, queued: bool) -> Question:
        hashes = self._names.of(tracked.request.block_hashes)
        self.counts.add("lookups")
        tracked.found = None
        number = tracked.open.number
        said = _taken(tracked)
        question = self._asker.ask(hashes, number, said, queued=queued, holds=self._loads)
        tracked.question = question
        tracked.open.began(question)
        return question

    def _found(self, tracked: Tracked) -> Found | None:
        question = tracked.question
        if question is None:
            question = self._ask(tracked, queued=False)
        elif question.is_stale(time.monotonic()) and tracked.asked_anew < _ANEW_MAX:
            tracked.asked_anew += 1
            question = self._ask(tracked, queued=False)
        elif tracked.found is not None:
            return tracked.found
        found = tracked.found = question.poll(time.monotonic())
        if found is None:
            return None
        tracked.asked_anew = 0
        if found is NOTHING:
            self.counts.add("lookups_unanswered")
            tracked.open.unanswered()
        else:
            self.on_looked_up(tracked, found.blocks)
        return found

    def _load(self, tracked: Tracked, first: int, slots: Sequence[int]) -> None:
        number = next(self._numbers)
        request = tracked.request
        hashes = self._names.of(request.block_hashes[first : first + len(slots)])
        self.holds.add(number, slots, take=False)
        job = Load(number, request.request_id, tracked.open.number, hashes, slots)
        self._step.loads.append(job)

    def _see_epoch(self, tracked: Tracked) -> None:
        """A daemon that was started anew may have lost what it had: all is offered again."""
        epoch = self._asker.epoch()
        if epoch is None or epoch == tracked.epoch:
            return
        if tracked.epoch is not None:
            tracked.offered_blocks = 0
        tracked.epoch = epoch

    def _offer(self, tracked: Tracked, whole: int, block_ids: Sequence[int]) -> None:
        """Offers as many blocks as may be held; the rest waits for a later step. While the daemon
        is left alone all wait: it keeps no block whose parent it lacks."""
        if not self._asker.available():
            return
        while tracked.offered_blocks < whole:
            first = tracked.offered_blocks
            room = min(self._stores_max - self._stores_held, BLOCKS_A_CALL_MAX)
            last = min(whole, first + room)
            if last <= first:
                return
            self._store(tracked, first, list(block_ids[first:last]))
            tracked.offered_blocks = last

    def _missed(self, offer: Offer) -> None:
        """Nothing came of it, and the daemon keeps no block after it: from there on all is offered
        again, if the request still runs."""
        tracked = offer.tracked
        self._offers_from = time.monotonic() + _MISSED_S
        if offer.directs:
            tracked.open.directed = False
        if self._requests.get(tracked.request.request_id) is tracked:
            tracked.offered_blocks = min(tracked.offered_blocks, offer.first_block)
        else:
            self.counts.add("dropped_blocks", offer.blocks)

    def _store(self, tracked: Tracked, first: int, slots: Sequence[int]) -> None:
        number, open_, hashes = next(self._numbers), tracked.open, tracked.request.block_hashes
        blocks = self._names.of(hashes[first : first + len(slots)])
        parent = self._names.of(hashes[first - 1 : first]) or None
        said, directs = open_.said, not open_.directed
        directives = beyond(said.directives, 0 if directs else first * self.block_tokens)
        job = Store(number, open_.number, blocks, slots, parent, said.session, directives)
        self._step.stores.append(job)
        self.holds.add(number, slots, take=True)
        offer = Offer(tracked, first, len(slots), directs)
        self._offers[number] = offer
        open_.began(offer)
        open_.directed = True
        self._stores_held += len(slots)
        self.counts.add("offered_blocks", len(slots))


def _taken(tracked: Tracked) -> RequestHints:
    """What the request says, of which what comes before its lookup is said once."""
    # The asker's threads read it later, so what they have is left as it is.
    said = tracked.open.said
    tracked.open.said = replace(said, envelope=None, before=[])
    return said


def summary(tracked: Tracked, block_tokens: int) -> Mapping[str, Any]:
    """What a finished request's answer says of the cache."""
    tokens = {tier.name.lower(): n * block_tokens for tier, n in sorted(tracked.loaded.items())}
    return {"loaded_tokens": sum(tokens.values()), "tiers": tokens}
