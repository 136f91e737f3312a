"""One session with a daemon: Hello, attach, and the calls that carry its token.

Ends once and for all; `connection` makes the next one. Retries nothing.
"""

from __future__ import annotations

import itertools
import os
import socket as sockets
import threading
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from . import _wire, arguments, convert, errors
from .completions import Completions
from .cuda import CudaPool
from .descriptors import Attachment
from .lent import CudaExport, HbmMemory
from .namespace import Namespace

if TYPE_CHECKING:
    from .pool import HostPool

_OPTIONS = (
    # grpc-core would make an authority of the socket's path, which is no host name.
    ("grpc.default_authority", "localhost"),
    # Channels of one target share their connection, and so its waiting times after a failure.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.enable_retries", 0),
)

_PROBE_TIMEOUT_S = 2.0

# The daemon's own bound of registering a pool and of letting go of it: its GPU's driver pins all of
# one in shared memory. A registration that is given up begins again from nothing in the next
# session.
POOL_TIMEOUT_S = 60.0

# Tells sessions of this process apart.
_EPOCHS = itertools.count(1)


@dataclass(frozen=True)
class Identity:
    """Who connects, and how patient it is."""

    client_id: str
    client_name: str
    namespace: Namespace
    # Bounds each call, in seconds.
    call_timeout_s: float
    # How fast the engine computes KV, where it knows that.
    prefill_tokens_per_s: int | None = None
    # The engine that it is a part of, where that has several clients.
    engine: str = ""


class PoolHandle:
    """A pool that is registered in every session of its client. Made by `register_pool`."""

    def __init__(self, pool: HostPool | CudaPool, shard: int) -> None:
        self.pool = pool
        self.shard = shard


@dataclass(frozen=True)
class Pings:
    """How a connection on which nothing may come for long is known to live, in seconds."""

    after_s: float
    answer_s: float

    def options(self) -> tuple[tuple[str, int], ...]:
        answer_ms = round(self.answer_s * 1000)
        return (
            ("grpc.keepalive_time_ms", round(self.after_s * 1000)),
            ("grpc.keepalive_timeout_ms", answer_ms),
            # Its bound of any ping, where that is another one.
            ("grpc.http2.ping_timeout_ms", answer_ms),
            ("grpc.http2.max_pings_without_data", 0),
        )

    @staticmethod
    def went_unanswered(error: Any) -> bool:
        """Whether a call failed for it (`grpc.RpcError`): only the text tells it from a daemon
        that died."""
        text = error.details() or ""
        return error.code() is grpc.StatusCode.UNAVAILABLE and (
            "ping timeout" in text or "keepalive" in text
        )


class Channel:
    """Calls to a daemon, as they are."""

    def __init__(self, path: Path, *, pings: Pings | None = None) -> None:
        self.path = path
        # Why it was closed, once it is.
        self._over: errors.TerraceError | None = None
        _probe(path)
        # gRPC takes the target apart as a URI.
        target = "unix:" + urllib.parse.quote(os.fsencode(path))
        options = _OPTIONS if pings is None else (*_OPTIONS, *pings.options())
        self._channel = grpc.insecure_channel(target, options=options)
        self._stubs: dict[str, Any] = {}
        for name, method in _wire.METHODS.items():
            kind = self._channel.unary_stream if method.streams else self._channel.unary_unary
            self._stubs[name] = kind(
                method.path,
                request_serializer=method.serialize,
                response_deserializer=method.parse,
            )

    def call(self, name: str, request: Any, timeout_s: float) -> Any:
        """Makes a call and waits for its answer."""
        try:
            return self._stubs[name](request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self.why(error) from error
        except ValueError as error:
            raise self._gone() from error

    def start(self, name: str, request: Any, deadline_s: float) -> Any:
        """Begins a call; gives grpc's future."""
        try:
            return self._stubs[name].future(request, timeout=deadline_s)
        except ValueError as error:
            raise self._gone() from error

    def answer(self, name: str, started: Any, wait_s: float) -> Any:
        """The answer of a call that was begun; it is given up after `wait_s`."""
        try:
            return started.result(timeout=wait_s)
        except grpc.FutureTimeoutError:
            raise self.given_up(name, started, wait_s) from None
        except grpc.FutureCancelledError as error:
            raise self._gone() from error
        except grpc.RpcError as error:
            raise self.why(error) from error

    def stream(self, name: str, request: Any) -> Any:
        """Opens a stream without a deadline."""
        return self._stubs[name](request)

    def opened(self, name: str, request: Any, wait_s: float) -> Any:
        """As `stream`, once the daemon has taken it up within `wait_s`, or has refused it: reading
        it says which."""
        stream, is_late = self.stream(name, request), threading.Event()

        def give_up() -> None:
            is_late.set()
            stream.cancel()

        # gRPC bounds the wait by a stream's whole time only.
        timer = threading.Timer(wait_s, give_up)
        timer.start()
        try:
            stream.initial_metadata()
        finally:
            timer.cancel()
        if is_late.is_set():
            raise self.given_up(name, stream, wait_s)
        return stream

    def given_up(self, name: str, started: Any, wait_s: float) -> errors.TimedOut:
        """Gives a call up; what to raise."""
        started.cancel()
        return errors.TimedOut(
            f"no answer to {name} within {wait_s} s: the daemon is overloaded or stuck"
        )

    def why(self, error: Any) -> errors.TerraceError:
        """The error that says what to do about a failed call."""
        return errors.from_rpc(error, self.path) if self._over is None else self._gone()

    def close(self, why: errors.TerraceError | None = None) -> None:
        """Ends the calls under way, with `why`."""
        self._over = why or errors.SessionLost(f"the connection to {self.path} was closed")
        self._channel.close()

    def _gone(self) -> errors.TerraceError:
        return errors.again(self._over or errors.SessionLost("the call was given up"))


class Session:
    """An attached session, with the pools that are registered in it."""

    def __init__(self, path: Path, identity: Identity) -> None:
        self.identity = identity
        self.epoch = next(_EPOCHS)
        self.completions = Completions()
        # What the daemon calls a pool, or why it refused it.
        self.pools: dict[PoolHandle, int | errors.TerraceError] = {}
        # Why it has ended, once it has.
        self._over: errors.TerraceError | None = None
        self.channel = Channel(path)
        try:
            hello = convert.hello(
                identity.client_id,
                identity.client_name,
                identity.namespace,
                identity.engine,
                identity.prefill_tokens_per_s,
            )
            answer = self.channel.call("Hello", hello, identity.call_timeout_s)
            self.token: bytes = answer.token
            self.welcome = convert.welcome(answer)
            self._attachment = Attachment(path, self.token)
            request = convert.built("CompletionsRequest", token=self.token)
            self._stream = self.channel.stream("Completions", request)
        except BaseException:
            self.channel.close()
            raise

    def pool_timeout_s(self) -> float:
        """How long the daemon may take to register a pool, and to let go of it."""
        return max(self.identity.call_timeout_s, POOL_TIMEOUT_S)

    def register(self, handle: PoolHandle, timeout_s: float) -> None:
        """Sends a pool's memory and registers it."""
        pool, layout = handle.pool, handle.pool.layout
        request = convert.built(
            "RegisterPoolRequest",
            token=self.token,
            shard=handle.shard,
            layout=convert.built("PoolLayout", **vars(layout)),
        )
        if isinstance(pool, CudaPool):
            request.cuda.CopyFrom(convert.cuda_memory(pool))
        elif pool.fileno() < 0:
            raise errors.Invalid("the pool was closed: close it after its client")
        else:
            request.tag = self._attachment.send_memory(pool.fileno())
        answer = self.channel.call("RegisterPool", request, timeout_s)
        self.pools[handle] = answer.pool_id

    def pool_id(self, handle: PoolHandle) -> int:
        arguments.one_of("pool", handle, PoolHandle, "what register_pool answered")
        known = self.pools.get(handle)
        if known is None and self._over is not None:
            raise errors.again(self._over)
        if known is None:
            raise errors.NotFound("this pool is not registered with this client: register it")
        if isinstance(known, errors.TerraceError):
            raise errors.again(known)
        return known

    def hbm(self, length_bytes: int, cuda: CudaExport | None) -> HbmMemory:
        """The HBM tier's memory, mapped where it is this machine's."""
        fd = self._attachment.hbm() if cuda is None else None
        return HbmMemory(self.identity.namespace, length_bytes, cuda, fd, self.epoch)

    def read_completions(self) -> errors.TerraceError:
        """Hands on completions until there will be no more; says why."""
        try:
            for batch in self._stream:
                for one in batch.completions:
                    self.completions.arrived(convert.completion(one))
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                return errors.SessionLost("the session was given up")
            return errors.from_rpc(error, self.channel.path)
        except Exception as error:
            # Without completions the session is of no use, whatever went wrong.
            return errors.SessionLost(f"reading the completions failed: {error!r}")
        # A daemon that stops ends it so too, but one that lives on may be copying still.
        return errors.SessionLost(f"the daemon at {self.channel.path} ended the session")

    def give_up(self) -> None:
        """Ends the stream, and with it `read_completions`."""
        self._stream.cancel()

    def close(self, why: errors.TerraceError) -> None:
        """Ends the session: what is under way ends with the first `why` that is given."""
        self._over = why
        self.completions.close(why)
        self._stream.cancel()
        self._attachment.close()
        self.channel.close(why)
        self.pools = {}


def _probe(path: Path) -> None:
    """grpc hides why it could not connect; a first connection of our own says it."""
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        # A daemon that hangs lets its line of connections fill up.
        probe.settimeout(_PROBE_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except OSError as error:
            raise errors.unreachable(path, error) from error
