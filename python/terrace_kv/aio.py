"""The client of an engine, with await: the same calls as `client.Client`, for one event loop.

The session, its reader of completions and its coming back are the blocking client's, on threads of
their own; nothing here blocks the loop, or takes a thread of its executor: those are the program's.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from . import answers, arguments, calls, errors, hints
from .calls import Call, Hashes, Stored
from .client import CALL_TIMEOUT_S, Client
from .completions import Operation
from .cuda import CudaPool
from .lent import Borrowed, HbmMemory
from .namespace import Namespace
from .pool import HostPool
from .session import PoolHandle

_T = TypeVar("_T")

_log = logging.getLogger("terrace_kv")


class AsyncClient:
    """A session with a daemon, made by `await AsyncClient.connect(...)` and used with
    `async with`."""

    def __init__(self, blocking: Client) -> None:
        self._blocking = blocking
        self._connection = blocking._connection
        self.namespace = blocking.namespace

    @classmethod
    async def connect(
        cls,
        socket: str | os.PathLike[str],
        *,
        client_id: str,
        namespace: Namespace,
        client_name: str = "terrace-kv/0.1.0",
        call_timeout_s: float = CALL_TIMEOUT_S,
        prefill_tokens_per_s: int | None = None,
        engine: str = "",
        may_be_away: bool = False,
    ) -> AsyncClient:
        """As `Client(...)`."""
        connecting = functools.partial(
            Client,
            socket,
            client_id=client_id,
            namespace=namespace,
            client_name=client_name,
            call_timeout_s=call_timeout_s,
            prefill_tokens_per_s=prefill_tokens_per_s,
            engine=engine,
            may_be_away=may_be_away,
        )
        return cls(await _on_a_thread(connecting))

    @property
    def connected(self) -> bool:
        return self._blocking.connected

    @property
    def welcome(self) -> answers.Welcome:
        return self._blocking.welcome

    async def wait_connected(self, timeout_s: float | None = None) -> bool:
        """As `Client.wait_connected`."""
        timeout_s = arguments.patience("timeout_s", timeout_s)
        awaited = asyncio.wrap_future(self._connection.await_connected())
        try:
            return await asyncio.wait_for(awaited, timeout_s)
        except asyncio.TimeoutError:
            return self.connected

    @property
    def epoch(self) -> int | None:
        """As `Client.epoch`."""
        return self._blocking.epoch

    @property
    def away(self) -> errors.TerraceError | None:
        """As `Client.away`."""
        return self._blocking.away

    def reconnect(self) -> None:
        """As `Client.reconnect`; it waits for nothing."""
        self._blocking.reconnect()

    async def register_pool(self, pool: HostPool | CudaPool, shard: int = 0) -> PoolHandle:
        """As `Client.register_pool`. Where it is cancelled, the pool is taken back in the
        background: its memory may be touched for so long."""
        thread = ThreadPoolExecutor(1, "terrace-kv-pool")
        registering = thread.submit(self._blocking.register_pool, pool, shard)
        try:
            return await asyncio.wrap_future(registering)
        except asyncio.CancelledError:
            # Nobody has the handle. It waits its turn behind the registering.
            thread.submit(self._take_back, registering)
            raise
        finally:
            thread.shutdown(wait=False)

    def _take_back(self, registering: Future[PoolHandle]) -> None:
        if registering.cancelled() or registering.exception() is not None:
            return
        try:
            self._blocking.unregister_pool(registering.result())
        except errors.TerraceError as error:
            _log.warning("a pool whose registering was cancelled may be kept: %s", error)

    async def unregister_pool(self, pool: PoolHandle) -> None:
        await _on_a_thread(self._blocking.unregister_pool, pool)

    async def lookup(
        self,
        hashes: Hashes,
        *,
        request: int = 0,
        session: str | None = None,
        ask_shared_ms: int = 0,
        queued: bool = False,
        timeout_s: float | None = None,
    ) -> answers.Lookup:
        living = self._connection.session()
        return await self._run(
            calls.lookup(living, hashes, request, session, ask_shared_ms, queued, timeout_s)
        )

    async def store(
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
        living = self._connection.session()
        return await self._run(
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

    async def load(
        self,
        hashes: Hashes,
        pool: PoolHandle,
        slots: Iterable[int],
        *,
        request: int = 0,
        load_timeout_s: float | None = None,
    ) -> Operation:
        """Answers when the load is planned; `await` the operation for its end."""
        living = self._connection.session()
        return await self._run(calls.load(living, hashes, pool, slots, request, load_timeout_s))

    async def hbm(self) -> HbmMemory:
        living = self._connection.session()
        said = await self._run(calls.hbm_memory(living))
        return await _on_a_thread(living.hbm, *said)

    async def borrow(self, hashes: Hashes, *, request: int) -> Borrowed:
        return await self._run(calls.borrow(self._connection.session(), hashes, request))

    async def give_back(self, request: int) -> int:
        return await self._run(calls.give_back(self._connection.session(), request))

    async def release(self, found: answers.Lookup) -> None:
        arguments.one_of("found", found, answers.Lookup, "what lookup answered")
        living = self._connection.session()
        if found.lease_id is not None and found.epoch == living.epoch:
            await self._run(calls.release(living, found.lease_id))

    async def end_request(
        self,
        request: int,
        *,
        stop: answers.Stop = answers.Stop.UNKNOWN,
        output_tokens: int = 0,
        prefill_tokens: int = 0,
        prefill_s: float = 0.0,
    ) -> answers.Usage:
        living = self._connection.session()
        return await self._run(
            calls.end_request(living, request, stop, output_tokens, prefill_tokens, prefill_s)
        )

    async def hint(self, *actions: hints.Action) -> tuple[answers.Outcome, ...]:
        return await self._run(calls.hint(self._connection.session(), actions))

    async def hint_envelope(
        self, envelope: Mapping[str, Any] | str | bytes
    ) -> answers.EnvelopeAnswer:
        return await self._run(calls.hint_envelope(self._connection.session(), envelope))

    async def lift(self, operation_id: int) -> answers.Lift:
        return await self._run(calls.lift(self._connection.session(), operation_id))

    def watch(self, operation_id: int) -> Operation:
        """As `Client.watch`; `await` what it gives."""
        return self._blocking.watch(operation_id)

    async def sessions(self, sessions_max: int = 0) -> answers.Sessions:
        return await self._run(calls.sessions(self._connection.session(), sessions_max))

    async def overlap(self, hashes: Hashes) -> answers.Overlap:
        return await self._run(calls.overlap(self._connection.session(), hashes))

    async def inspect(self, block_hash: bytes) -> answers.Block:
        return await self._run(calls.inspect(self._connection.session(), block_hash))

    async def status(self) -> answers.Status:
        return await self._run(calls.status(self._connection.session()))

    async def close(self) -> None:
        await _on_a_thread(self._blocking.close)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, call: Call[_T]) -> _T:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake(_: Any) -> None:
            try:
                loop.call_soon_threadsafe(ended.set)
            except RuntimeError:
                # The loop is closed: nobody waits any more.
                return

        channel = call.session.channel
        try:
            started = channel.start(call.method, call.request, call.deadline_s)
            started.add_done_callback(wake)
            try:
                await asyncio.wait_for(ended.wait(), call.wait_s)
            except asyncio.TimeoutError:
                raise channel.given_up(call.method, started, call.wait_s) from None
            except asyncio.CancelledError:
                started.cancel()
                raise
            return call.read(channel.answer(call.method, started, call.wait_s))
        except errors.DaemonGone as error:
            self._connection.lost(call.session, error)
            raise


async def _on_a_thread(call: Callable[..., _T], *given: Any) -> _T:
    """As `asyncio.to_thread`, on a thread of its own: one that is cancelled goes on to its end, and
    many of those would use the loop's executor up."""
    thread = ThreadPoolExecutor(1, "terrace-kv-aio")
    try:
        return await asyncio.wrap_future(thread.submit(call, *given))
    finally:
        thread.shutdown(wait=False)
