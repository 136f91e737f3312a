"""The client of an engine, blocking. `aio` has the same with await.

Every call is bounded in time, and refused at once with `DaemonGone` while no daemon is there. A
client comes back by itself, its pools registered again. Keeps no blocks, retries no call. Safe to
use from several threads; make it after a fork, not before.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from . import answers, arguments, calls, errors, hints
from .calls import Call, Hashes, Stored
from .completions import Operation
from .connection import Connection
from .cuda import CudaPool
from .lent import Borrowed, HbmMemory
from .namespace import Namespace
from .pool import HostPool
from .session import Identity, PoolHandle

_T = TypeVar("_T")

CALL_TIMEOUT_S = 5.0


class Client:
    """A session with a daemon. Leases, pools and unfinished stores end with it."""

    def __init__(
        self,
        socket: str | os.PathLike[str],
        *,
        client_id: str,
        namespace: Namespace,
        client_name: str = "terrace-kv/0.1.0",
        call_timeout_s: float = CALL_TIMEOUT_S,
        prefill_tokens_per_s: int | None = None,
        engine: str = "",
        may_be_away: bool = False,
    ) -> None:
        """Connects to the daemon at `socket`.

        `client_id` is unique among living clients and stable over restarts ("engine-0/rank-1").
        `prefill_tokens_per_s` is how fast the engine computes KV, where it knows that: plans
        compare it with loading. `engine` is for an engine of several clients, its scheduler and its
        ranks say: those of one namespace that name the same engine mean the same request by the
        same number. With `may_be_away` a daemon that is not there, is busy or does not answer is no
        error: the client waits for it.

        Raises `DaemonGone`, `VersionMismatch`, `NameTaken`, or `Invalid` for a namespace that does
        not hold.
        """
        path = arguments.socket(socket)
        self.namespace = arguments.one_of("namespace", namespace, Namespace, "a Namespace")
        call_timeout_s = arguments.seconds("call_timeout_s", call_timeout_s)
        arguments.one_of("engine", engine, str, "the engine's name, or an empty one")
        identity = Identity(
            client_id, client_name, namespace, call_timeout_s, prefill_tokens_per_s, engine
        )
        self._connection = Connection(path, identity, may_be_away=may_be_away)
        # Also when nobody closes it, and when the process ends.
        self._finalizer = weakref.finalize(self, self._connection.close)

    @property
    def connected(self) -> bool:
        """Whether a daemon is there now, as far as is known."""
        return self._connection.connected()

    @property
    def welcome(self) -> answers.Welcome:
        """What the daemon said at Hello: its version and limits."""
        return self._connection.session().welcome

    def wait_connected(self, timeout_s: float | None = None) -> bool:
        """Waits until a daemon is there, at most so many seconds; says whether it is."""
        timeout_s = arguments.patience("timeout_s", timeout_s)
        return self._connection.wait_connected(timeout_s)

    @property
    def epoch(self) -> int | None:
        """Numbers this client's sessions, rising; None while there is none. Once there is a later
        one, nothing of an earlier one goes on for longer than a second."""
        return self._connection.epoch()

    @property
    def away(self) -> errors.TerraceError | None:
        """Why there is no session; None while there is one."""
        return self._connection.why_away()

    def reconnect(self) -> None:
        """Gives this session up and makes another: after a call that got no answer, since what it
        may have begun ends with its session."""
        self._connection.drop()

    def register_pool(self, pool: HostPool | CudaPool, shard: int = 0) -> PoolHandle:
        """Registers `pool` as rank `shard`'s memory, in this session and all that follow.

        While no daemon is there it is registered as soon as one is. Raises `Invalid` for a pool of
        other blocks than the client's namespace has. After `TimedOut` the daemon may have it all
        the same, until this session ends (`reconnect`).
        """
        takes = "a HostPool or a CudaPool; HostPool.create makes one, and view() is its array"
        arguments.one_of("pool", pool, (HostPool, CudaPool), takes)
        _check_shape(pool.namespace, self.namespace)
        handle = PoolHandle(pool, shard)
        self._connection.register(handle)
        return handle

    def unregister_pool(self, pool: PoolHandle) -> None:
        """Takes a pool back; returns once the daemon has let go of it: its memory may be freed.

        That may take a minute, like registering it: copies under way are waited for. After
        `TimedOut` call it again.
        Where the session ended before the daemon said so, a daemon that is gone has let go, and so
        has one that gave this client its next session, a second later. Raises `SessionLost` where
        neither is known within the call's time: a copy that had begun may still touch the pool.
        """
        arguments.one_of("pool", pool, PoolHandle, "what register_pool answered")
        session = self._connection.forget(pool)
        if session is not None:
            try:
                return self._run(calls.unregister(session, pool))
            except errors.NotFound:
                # An earlier call was carried out, and not heard of.
                if session.pools.pop(pool, None) is None:
                    raise
                return
            except errors.DaemonGone:
                pass
        self._connection.outlive(session)

    def lookup(
        self,
        hashes: Hashes,
        *,
        request: int = 0,
        session: str | None = None,
        ask_shared_ms: int = 0,
        queued: bool = False,
        timeout_s: float | None = None,
    ) -> answers.Lookup:
        """The longest stored prefix of a chain (its root first), and a lease on it.

        `request` is the engine's number for the request: its leases end with `end_request`.
        `session` names the agent's conversation. `ask_shared_ms` is how long the daemon may ask
        the shared object store for what follows the prefix that is here. A request that is
        `queued` waits for its turn in the engine: what it will load is lifted meanwhile.
        """
        living = self._connection.session()
        return self._run(
            calls.lookup(living, hashes, request, session, ask_shared_ms, queued, timeout_s)
        )

    def store(
        self,
        hashes: Hashes,
        pool: PoolHandle,
        slots: Iterable[int],
        *,
        parent: bytes | None = None,
        request: int = 0,
        session: str | None = None,
        directives: Iterable[hints.Directive] = (),
        durable: bool = False,
        token_ids: Iterable[int] = (),
        timeout_s: float | None = None,
    ) -> Stored:
        """Offers the blocks in `slots`, a run of one chain.

        `parent` is the hash of the block before the first; None if the first is the chain's root.
        The slots of taken blocks must not change before `Stored.op` ends. A `durable` store's ends
        only when each block outlives the daemon, a crash and a loss of power, or will not:
        `Completion.not_durable` says which.
        `token_ids` are all their tokens, for routers that know blocks by them; say them only where
        the hashes are made of tokens alone.
        """
        living = self._connection.session()
        return self._run(
            calls.store(
                living,
                hashes,
                pool,
                slots,
                parent,
                request,
                session,
                directives,
                durable,
                token_ids,
                timeout_s,
            )
        )

    def load(
        self,
        hashes: Hashes,
        pool: PoolHandle,
        slots: Iterable[int],
        *,
        request: int = 0,
        load_timeout_s: float | None = None,
    ) -> Operation:
        """Has blocks copied into `slots`, wherever they are.

        The slots must not be touched before the operation ends. What is not there within
        `load_timeout_s` (the daemon's limit where none is given) fails; the completion names it.
        """
        living = self._connection.session()
        return self._run(calls.load(living, hashes, pool, slots, request, load_timeout_s))

    def hbm(self) -> HbmMemory:
        """The memory of the daemon's HBM tier, in which `borrow` says where blocks lie.

        Good for what is borrowed over the same connection: after another `epoch` ask again. Raises
        `Precondition` where there is none, or it can't be shared.
        """
        living = self._connection.session()
        return living.hbm(*self._run(calls.hbm_memory(living)))

    def borrow(self, hashes: Hashes, *, request: int) -> Borrowed:
        """Has those of the blocks lent that are in HBM, to be read where they lie.

        They stay there until `give_back` or `end_request` of that request, or the session's end:
        `Borrowed.epoch` is no longer `epoch` then. Work on a GPU that reads them must be over.
        """
        return self._run(calls.borrow(self._connection.session(), hashes, request))

    def give_back(self, request: int) -> int:
        """Nothing that was borrowed under the request is read any more; how many blocks it was."""
        return self._run(calls.give_back(self._connection.session(), request))

    def release(self, found: answers.Lookup) -> None:
        """Gives a lookup's lease back before its time. One that ended with its session is no
        error, nor is a lookup that found nothing."""
        arguments.one_of("found", found, answers.Lookup, "what lookup answered")
        living = self._connection.session()
        if found.lease_id is not None and found.epoch == living.epoch:
            self._run(calls.release(living, found.lease_id))

    def end_request(
        self,
        request: int,
        *,
        stop: answers.Stop = answers.Stop.UNKNOWN,
        output_tokens: int = 0,
        prefill_tokens: int = 0,
        prefill_s: float = 0.0,
    ) -> answers.Usage:
        """Ends a request with all leases taken under it; answers what it used.

        `prefill_tokens` whose KV the engine computed, and how long that took, correct the rate
        that plans reckon with: both or neither. What was loaded does not count.
        """
        living = self._connection.session()
        return self._run(
            calls.end_request(living, request, stop, output_tokens, prefill_tokens, prefill_s)
        )

    def hint(self, *actions: hints.Action) -> tuple[answers.Outcome, ...]:
        """Says something beside requests; each action has an outcome of its own, in order."""
        return self._run(calls.hint(self._connection.session(), actions))

    def hint_envelope(self, envelope: Mapping[str, Any] | str | bytes) -> answers.EnvelopeAnswer:
        """As `hint`, in the engines' JSON envelope: as an object or as text."""
        return self._run(calls.hint_envelope(self._connection.session(), envelope))

    def lift(self, operation_id: int) -> answers.Lift:
        """How a lift of this client stands. Raises `NotFound` for one of another client's, and
        for one that ended so long ago that it is forgotten."""
        return self._run(calls.lift(self._connection.session(), operation_id))

    def watch(self, operation_id: int) -> Operation:
        """The end of a lift that this session was told of; it is heard of once."""
        operation_id = arguments.count("operation_id", operation_id, least=0)
        return self._connection.session().completions.expect(operation_id)

    def sessions(self, sessions_max: int = 0) -> answers.Sessions:
        """The daemon's sessions, of all namespaces: so many of those heard of last (0: 100)."""
        return self._run(calls.sessions(self._connection.session(), sessions_max))

    def overlap(self, hashes: Hashes) -> answers.Overlap:
        """How much of a chain (root first) is in which tier. Holds nothing and leaves no trace."""
        return self._run(calls.overlap(self._connection.session(), hashes))

    def inspect(self, block_hash: bytes) -> answers.Block:
        """What the daemon knows of the block that this client's engine calls `block_hash`."""
        return self._run(calls.inspect(self._connection.session(), block_hash))

    def status(self) -> answers.Status:
        """What the daemon holds and does."""
        return self._run(calls.status(self._connection.session()))

    def close(self) -> None:
        """Ends the session at once, with all that hangs on it. Twice is once."""
        self._finalizer()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, call: Call[_T]) -> _T:
        channel = call.session.channel
        try:
            if call.wait_s == call.deadline_s:
                return call.read(channel.call(call.method, call.request, call.wait_s))
            started = channel.start(call.method, call.request, call.deadline_s)
            return call.read(channel.answer(call.method, started, call.wait_s))
        except errors.DaemonGone as error:
            self._connection.lost(call.session, error)
            raise


def _check_shape(pool: Namespace, client: Namespace) -> None:
    """Blocks of another shape would be copied in part, and nobody would notice."""
    for name in ("layers", "planes", "page_bytes"):
        has, wanted = getattr(pool, name), getattr(client, name)
        if has != wanted:
            raise errors.Invalid(
                f"the pool's {name} is {has}, and {wanted} in this client's namespace: make the "
                "pool with the client's namespace"
            )
