"""Residency from a real daemon: events, snapshots, overlaps, and vLLM's format over ZeroMQ."""

import struct
import threading
import time
import unittest
from typing import ClassVar
from unittest import mock

import msgspec
import zmq

from rig import BLOCK_TOKENS, PATIENCE_S, DaemonCase, RestartCase, chain, until
from terrace_kv import (
    DaemonGone,
    Invalid,
    NotFound,
    TerraceError,
    Tier,
    TimedOut,
    hashing,
    residency,
)
from terrace_kv.residency import (
    Changes,
    Complete,
    Lost,
    Reset,
    Residents,
    daemon_events,
    daemon_overlap,
)

END = (-1).to_bytes(8, "big", signed=True)


class Followed:
    """A thread that follows the daemon and keeps a picture."""

    def __init__(self, socket, **wanted) -> None:
        self.events = daemon_events(socket, **wanted)
        self.residents = Residents()
        self.heard = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for event in self.events:
            self.residents.apply(event)
            self.heard.append(event)

    def close(self) -> None:
        self.events.close()
        self._thread.join(10)
        assert not self._thread.is_alive(), "closing ends the stream"


class EventsTest(DaemonCase):
    def follow(self, **wanted) -> Followed:
        followed = Followed(self.daemon.socket, **wanted)
        self.addCleanup(followed.close)
        return followed

    def test_what_is_stored_is_told_with_its_name(self):
        engine, followed = self.engine(), self.follow(snapshot=True)
        hashes = chain(4, seed=900)
        keys = [engine.space.key(one) for one in hashes]
        engine.store(hashes)
        until(lambda: followed.residents.served.keys() >= set(keys), "the store is told")
        told = {b.key: b for e in followed.heard if isinstance(e, Changes) for b in e.blocks}
        for place, (one, key) in enumerate(zip(hashes, keys, strict=True)):
            self.assertEqual(told[key].hash, int.from_bytes(one[-8:], "big"))
            self.assertEqual((told[key].position, told[key].tiers), (place, {Tier.DRAM}))
            self.assertIn(Tier.DRAM, engine.client.inspect(one).copies)
        self.assertEqual(told[keys[1]].parent_hash, told[keys[0]].hash)
        self.assertIsNone(told[keys[0]].parent_hash)
        self.assertIsInstance(followed.heard[0], Reset)
        self.assertTrue(any(isinstance(one, Complete) for one in followed.heard))

    def test_a_snapshot_and_a_place_to_go_on(self):
        engine = self.engine()
        engine.store(chain(3, seed=901))
        first = self.follow(snapshot=True, namespace=engine.space.digest())
        until(lambda: any(isinstance(one, Complete) for one in first.heard), "it is complete")
        complete = next(one for one in first.heard if isinstance(one, Complete))
        again = self.follow(start=(complete.life, complete.next))
        stranger = self.follow(start=(complete.life + 1, 0))
        engine.store(chain(1, seed=902))
        key = engine.space.key(chain(1, seed=902)[0])
        until(lambda: key in again.residents.served, "it goes on")
        self.assertFalse(any(isinstance(one, (Reset, Lost)) for one in again.heard))
        until(lambda: stranger.heard, "a stranger hears")
        self.assertIsInstance(stranger.heard[0], Reset)

    def test_an_overlap_holds_nothing(self):
        engine = self.engine()
        hashes = chain(5, seed=903)
        engine.store(hashes[:3])
        found = engine.client.overlap(hashes)
        self.assertEqual((found.matched_blocks, found.matched_tokens), (3, 3 * BLOCK_TOKENS))
        self.assertEqual(found.held_blocks[Tier.DRAM], 3)
        self.assertEqual(found.fastest_blocks, {**dict.fromkeys(Tier, 0), Tier.DRAM: 3})
        self.assertEqual(daemon_overlap(self.daemon.socket, hashes, engine.space), found)
        digest = engine.space.digest()
        self.assertEqual(daemon_overlap(self.daemon.socket, b"".join(hashes), digest), found)
        self.assertEqual(engine.client.status().leases, 0)
        self.assertEqual(daemon_overlap(self.daemon.socket, hashes, b"\1" * 32).matched_blocks, 0)
        with self.assertRaises(Invalid):
            daemon_overlap(self.daemon.socket, hashes, b"short")
        with self.assertRaises(NotFound):
            engine.client.inspect(hashes[4])

    def test_tokens_that_do_not_fit_are_refused(self):
        engine = self.engine()
        hashes = chain(2, seed=904)
        for tokens in ([1] * BLOCK_TOKENS, [1 << 32] * (2 * BLOCK_TOKENS), [-1], ["a"]):
            with self.assertRaises(Invalid):
                engine.client.store(hashes, engine.handle, range(2), token_ids=tokens)
        engine.store(hashes, token_ids=[1] * (2 * BLOCK_TOKENS))


class HangingTest(RestartCase):
    """Daemons that stand still: whoever follows them is told, and not that they are gone."""

    def setUp(self) -> None:
        quick = residency.Pings(after_s=0.2, answer_s=0.3)
        patched = mock.patch.object(residency, "_PINGS", quick)
        patched.start()
        self.addCleanup(patched.stop)
        self.hanging = self.daemon().start()

    def test_connecting_is_bounded(self):
        self.hanging.freeze()
        before = time.monotonic()
        with self.assertRaisesRegex(TimedOut, "no answer to Events within 0.3 s"):
            daemon_events(self.hanging.socket, snapshot=True, timeout_s=0.3)
        self.assertLess(time.monotonic() - before, 3.0)
        self.hanging.thaw()
        with daemon_events(self.hanging.socket, snapshot=True, timeout_s=PATIENCE_S) as events:
            self.assertIsInstance(next(events), Reset)

    def test_an_open_stream_ends(self):
        with daemon_events(self.hanging.socket, snapshot=True) as events:
            self.assertIsInstance(next(events), Reset)
            self.assertIsInstance(next(events), Complete)
            ends = []

            def read() -> None:
                try:
                    ends.append(next(events))
                except TerraceError as error:
                    ends.append(error)

            reader = threading.Thread(target=read, daemon=True)
            reader.start()
            # As long as pings are answered, nothing is no end: these are some.
            reader.join(1.5)
            self.assertEqual(ends, [])
            self.hanging.freeze()
            reader.join(PATIENCE_S)
            self.hanging.thaw()
            self.assertIsInstance(*ends, TimedOut)

    def test_one_that_died_is_gone(self):
        with daemon_events(self.hanging.socket, snapshot=True) as events:
            next(events)
            self.hanging.kill()
            with self.assertRaises(DaemonGone):
                list(events)


class SmallHistoryTest(DaemonCase):
    settings: ClassVar = {"events-history": "2"}

    def test_who_is_too_late_hears_it(self):
        engine = self.engine()
        for seed in range(910, 914):
            engine.store(chain(1, seed=seed))
        with daemon_events(self.daemon.socket, snapshot=True) as events:
            life = next(events).life
        with daemon_events(self.daemon.socket, start=(life, 0)) as events:
            lost = next(events)
        self.assertEqual((lost.first, lost.next), (0, 2))
        residents = Residents()
        residents.apply(lost)
        self.assertTrue(residents.is_patchy)


# As vLLM's examples/online_serving/kv_events_subscriber.py decodes them, with vLLM 0.32's classes.
class Event(msgspec.Struct, omit_defaults=True, tag=True):
    pass


class BlockStored(Event):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None


class BlockRemoved(Event):
    block_hashes: list[int]
    medium: str | None


class AllBlocksCleared(Event):
    pass


class Batch(msgspec.Struct, array_like=True, omit_defaults=True):
    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None


class ZmqTest(DaemonCase):
    """A subscriber on libzmq."""

    settings: ClassVar = {
        "events-zmq": "ipc://FOLDER/pub",
        "events-zmq-replay": "ipc://FOLDER/replay",
        "events-topic": "kv@node@{model}",
    }

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.context = zmq.Context()
        cls.addClassCleanup(cls.context.destroy, 0)

    def socket(self, kind: int, name: str) -> zmq.Socket:
        socket = self.context.socket(kind)
        socket.setsockopt(zmq.RCVTIMEO, 10_000)
        if kind == zmq.SUB:
            socket.subscribe("kv@")
        socket.connect(f"ipc://{self.daemon.folder}/{name}")
        self.addCleanup(socket.close, 0)
        return socket

    def read(self, frames: list[bytes]) -> tuple[int, Batch]:
        topic, number, payload = frames
        self.assertIn(topic, (b"kv@node@test", b"kv@node@"))
        return struct.unpack(">Q", number)[0], msgspec.msgpack.decode(payload, type=Batch)

    def replayed(self, first: int) -> list[tuple[int, Batch]]:
        dealer = self.socket(zmq.DEALER, "replay")
        dealer.send_multipart([b"", first.to_bytes(8, "big")])
        found = []
        while True:
            empty, *frames = dealer.recv_multipart()
            self.assertEqual(empty, b"")
            if frames[1] == END:
                self.assertEqual(frames, [b"", END, b""])
                return found
            found.append(self.read(frames))

    def test_a_subscriber_follows_and_replays(self):
        engine = self.engine()
        sub = self.socket(zmq.SUB, "pub")
        # Whether a subscription has arrived is seen by what comes.
        seeds = iter(range(920, 1000))
        while not sub.poll(200):
            engine.store(chain(1, seed=next(seeds)))
        tokens = list(range(100_000, 100_000 + 3 * BLOCK_TOKENS))
        hashes = hashing.block_hashes(tokens, BLOCK_TOKENS)
        engine.store(hashes, token_ids=tokens)
        names = [int.from_bytes(one[-8:], "big") for one in hashes]
        stored, last = [], None
        while names[-1] not in [name for one in stored for name in one.block_hashes]:
            number, batch = self.read(sub.recv_multipart())
            self.assertIn(last, (None, number - 1), "a number is missing")
            self.assertLess(abs(batch.ts - time.time()), 60)
            last = number
            stored += [one for one in batch.events if isinstance(one, BlockStored)]
        mine = [one for one in stored if set(one.block_hashes) & set(names)]
        self.assertEqual([name for one in mine for name in one.block_hashes], names)
        self.assertIsNone(mine[0].parent_block_hash)
        self.assertEqual([token for one in mine for token in one.token_ids], tokens)
        self.assertEqual({one.medium for one in mine}, {"CPU"})
        self.assertEqual({one.block_size for one in mine}, {BLOCK_TOKENS})

        everything = self.replayed(0)
        self.assertIsInstance(everything[0][1].events[0], AllBlocksCleared)
        self.assertEqual([number for number, _ in everything], list(range(last + 1)))
        self.assertEqual(self.replayed(last)[0][0], last)
        self.assertEqual(self.replayed(last + 1), [])
        # A REQ socket, as vLLM's example has it.
        req = self.socket(zmq.REQ, "replay")
        req.send(last.to_bytes(8, "big"))
        self.assertEqual(self.read(req.recv_multipart())[0], last)

    def test_heartbeats_keep_a_quiet_connection(self):
        for kind, name in ((zmq.SUB, "pub"), (zmq.DEALER, "replay")):
            socket = self.context.socket(kind)
            self.addCleanup(socket.close, 0)
            socket.setsockopt(zmq.HEARTBEAT_IVL, 100)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
            socket.setsockopt(zmq.HEARTBEAT_TTL, 500)
            ends = socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
            socket.connect(f"ipc://{self.daemon.folder}/{name}")
            self.assertEqual(ends.poll(1500), 0, f"{name} was dropped")
            socket.disable_monitor()


if __name__ == "__main__":
    unittest.main()
