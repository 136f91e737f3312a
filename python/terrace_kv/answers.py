"""What the daemon answers. Times that end in `_unix_us` are microseconds since the UNIX epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum


class Tier(IntEnum):
    """Where a copy of a block can be, from the fastest to the slowest."""

    HBM = 1
    DRAM = 2
    NVME = 3
    OBJECT = 4


class Kind(IntEnum):
    """What a block's tokens are."""

    UNKNOWN = 0
    SYSTEM = 1
    TOOLS = 2
    CONVERSATION = 3
    TOOL_RESULT = 4
    REASONING = 5
    SUBAGENT = 6
    OUTPUT = 7


class Scope(IntEnum):
    """Whose decision a block's life is."""

    UNKNOWN = 0
    GLOBAL = 1
    PROJECT = 2
    SESSION = 3


class Stop(IntEnum):
    """Why the model stopped."""

    UNKNOWN = 0
    TOOL_USE = 1
    END_TURN = 2


class OpKind(IntEnum):
    """What an operation did; UNKNOWN for what only a newer daemon does."""

    UNKNOWN = 0
    STORE = 1
    LOAD = 2
    PREFETCH = 3


class OutcomeStatus(IntEnum):
    """How an action went."""

    UNKNOWN = 0
    ACCEPTED = 1
    CLIPPED = 2
    DEFERRED = 3
    REJECTED = 4
    MISSING = 5


class SessionState(IntEnum):
    """Where a session stands."""

    UNKNOWN = 0
    IDLE = 1
    RUNNING = 2
    STOPPED = 3
    IN_TOOL = 4


class LiftState(IntEnum):
    """How far a lift is."""

    UNKNOWN = 0
    # For its time, or for others to end.
    WAITING = 1
    MOVING = 2
    # All that could be lifted is there, and held.
    HELD = 3
    # Its blocks were asked for, or its deadline passed, or room was needed.
    ENDED = 4
    CANCELLED = 5


class LiftReason(IntEnum):
    """Why a lift was made."""

    UNKNOWN = 0
    PREFETCH = 1
    SPECULATIVE_PREFILL = 2
    TOOL_START = 3
    TOOL_RETURN = 4
    SESSION_START = 5
    QUEUED = 6


class Link(IntEnum):
    """The roads between the tiers."""

    UNKNOWN = 0
    DEVICE_UP = 1
    DEVICE_DOWN = 2
    DEVICE_LOCAL = 3
    NVME_READ = 4
    NVME_WRITE = 5
    OBJECT_GET = 6
    OBJECT_PUT = 7


class CopyState(IntEnum):
    """How far a copy is."""

    NONE = 0
    FILLING = 1
    RESIDENT = 2
    DRAINING = 3


@dataclass(frozen=True)
class Limits:
    """What the daemon accepts."""

    message_bytes_max: int
    lookup_blocks_max: int
    transfer_blocks_max: int
    pools_max: int
    pending_fds_max: int
    load_timeout_ms_max: int


@dataclass(frozen=True)
class Welcome:
    """What the daemon said at Hello."""

    protocol_version: int
    daemon_version: str
    node_id: str
    # Bytes that one block of this namespace takes in DRAM, on NVMe and as an object.
    frame_bytes: int
    lease_ttl_ms: int
    limits: Limits


@dataclass(frozen=True)
class Run:
    """A stretch of a chain whose blocks have the same fastest tier."""

    tier: Tier
    blocks: int
    # When all blocks up to this run's end can be in HBM: microseconds from the answer.
    ready_us: int


@dataclass(frozen=True)
class LoadPlan:
    """How much of what was found is worth loading. Times are counted from the answer, and hold
    as long as nothing else comes in between."""

    # The longest prefix that loads no slower than the model computes it, and how long it takes.
    load_blocks: int
    load_us: int
    # For an engine that computes the rest while the head loads: the best head, and when both are
    # done. Never later than `recompute_us`.
    mixed_blocks: int
    mixed_us: int
    # What the model needs for all that was asked for; None while its rate is not known, and then
    # both heads are the whole prefix.
    recompute_us: int | None


@dataclass(frozen=True)
class Lookup:
    """The stored prefix of a chain, and the hold on it."""

    runs: tuple[Run, ...]
    matched_blocks: int
    # None where nothing was found.
    lease_id: int | None
    lease_expires_unix_us: int
    plan: LoadPlan
    # The connection that holds the lease: it ends with it.
    epoch: int

    def tiers(self) -> Iterator[Tier]:
        """The fastest tier of each block found, in order."""
        for run in self.runs:
            for _ in range(run.blocks):
                yield run.tier


@dataclass(frozen=True)
class Overlap:
    """How much of a chain is in which tier."""

    # The prefix that could be served now. Its tokens, as block_tokens, are 0 until a client of the
    # namespace has said Hello.
    matched_blocks: int
    matched_tokens: int
    block_tokens: int
    # Of the matched blocks: those each tier is the fastest to have, and those it has at all.
    fastest_blocks: Mapping[Tier, int]
    held_blocks: Mapping[Tier, int]


@dataclass(frozen=True)
class Completion:
    """A store, load or lift ended. Blocks not listed as failed landed."""

    op_id: int
    # 0 for a lift.
    request_id: int
    kind: OpKind
    blocks: int
    # Indexes into the call's hashes, rising; of a lift, into the blocks that its target names.
    failed: tuple[int, ...]
    # Of a durable store: the blocks that landed, and that a restart may lose.
    not_durable: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every block landed."""
        return not self.failed


@dataclass(frozen=True)
class Usage:
    """What one request used, in tokens of whole blocks."""

    # Found at lookup, by the fastest tier that had them.
    read: Mapping[Tier, int]
    # Newly stored under a shield of up to five minutes, and under a longer one.
    created_5m_tokens: int
    created_1h_tokens: int
    # Asked for, neither found nor stored under a shield.
    uncached_tokens: int


@dataclass(frozen=True)
class Outcome:
    """What became of an action."""

    action_id: str
    status: OutcomeStatus
    # Blocks it was done for, and those it was not (wholly) done for.
    blocks: int
    clipped: int
    # Of rejected and missing: why, and what to do.
    message: str
    # Of a lift that was accepted, clipped or deferred: what `lift`, `watch` and `CancelPrefetch`
    # take.
    operation_id: int | None


@dataclass(frozen=True)
class Lift:
    """How a lift stands: a prefetch or a speculative prefill."""

    state: LiftState
    reason: LiftReason
    to: Tier
    # By when its blocks are needed, and how long they are held.
    deadline_unix_us: int
    # Blocks that were named; those that are there or were moved there; those that found no room or
    # are gone; and those that were asked for since.
    blocks: int
    landed: int
    clipped: int
    used: int


@dataclass(frozen=True)
class EnvelopeAnswer:
    """The outcomes of an envelope's actions, in their order."""

    message_id: str
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class SessionInfo:
    """A session that the daemon knows."""

    session: str
    parent: str
    namespace: bytes
    model: str
    state: SessionState
    stop: Stop
    expected_unix_us: int
    last_seen_unix_us: int
    blocks: int
    own_blocks: int


@dataclass(frozen=True)
class Sessions:
    """The sessions heard of last, and how many there are in all."""

    sessions: tuple[SessionInfo, ...]
    sessions_total: int


@dataclass(frozen=True)
class Record:
    """What a block's owners asked for. Times: 0 where not asked for."""

    priority: int
    priority_until_unix_us: int
    shield_until_unix_us: int
    refresh_on_hit_ms: int
    delete_after_unix_us: int
    kind: Kind
    floor: Tier
    scope: Scope


@dataclass(frozen=True)
class Block:
    """What the daemon knows of one block."""

    key: bytes
    # None for its chain's root.
    parent: bytes | None
    namespace: bytes
    model: str
    # Blocks before it in its chain.
    position: int
    created_unix_us: int
    record: Record
    copies: Mapping[Tier, CopyState]
    # Sessions that reach it.
    claims: int
    dead: bool
    leases: int


@dataclass(frozen=True)
class TierStatus:
    """One tier's figures; counts are since the daemon's start."""

    tier: Tier
    present: bool
    capacity_bytes: int
    used_bytes: int
    blocks: int
    hit_blocks: int
    evicted_copies: int
    evicted_blocks: int
    in_bytes: int
    out_bytes: int
    failures: int
    shielded_bytes: int
    # What its store refuses for now, since when and why; None while it is well.
    outage: str | None


@dataclass(frozen=True)
class LinkStatus:
    """One link's figures, in payload bytes; counts are since the daemon's start."""

    link: Link
    # Moved for requests that waited, ahead of need, and for nobody who waits.
    demand_bytes: int
    prefetch_bytes: int
    background_bytes: int
    # Learned from what moved; 0: nothing has moved yet.
    bytes_per_s: int
    latency_us: int
    queued_transfers: int
    in_flight_bytes: int


@dataclass(frozen=True)
class LiftCounts:
    """What came of lifts since the daemon's start, in payload bytes of the lifted blocks."""

    begun: int
    cancelled: int
    clipped_blocks: int
    bytes: int
    # There before they were asked for, asked for while they moved, and never asked for.
    timely_bytes: int
    late_bytes: int
    wasted_bytes: int


@dataclass(frozen=True)
class NvmeWrites:
    """Why bytes were written to NVMe since the daemon's start, and why others were not."""

    demoted_bytes: int
    through_bytes: int
    stored_bytes: int
    lifted_bytes: int
    durable_bytes: int
    record_bytes: int
    spared_dead_bytes: int
    spared_floor_bytes: int
    spared_unlikely_bytes: int
    spared_budget_bytes: int
    # What the budget has left, below zero by what it is overdrawn; None: nothing is limited.
    budget_left_bytes: int | None


@dataclass(frozen=True)
class Status:
    """What the daemon holds and does; counts are since its start."""

    protocol_version: int
    daemon_version: str
    node_id: str
    pid: int
    uptime_ms: int
    policy: str
    blocks: int
    clients: int
    pools: int
    leases: int
    ops_in_flight: int
    transfers_in_flight: int
    transfers_queued: int
    lookups: int
    lookup_blocks: int
    stores_dropped_blocks: int
    corrupt_copies: int
    sessions: int
    forgotten_blocks: int
    broken_shields: int
    tiers: Mapping[Tier, TierStatus]
    links: Mapping[Link, LinkStatus]
    lifts: LiftCounts
    facts: Mapping[str, str]
    nvme_writes: NvmeWrites
