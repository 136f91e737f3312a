"""Residency from a real daemon: events, snapshots, overlaps."""

import threading
import unittest
from typing import ClassVar

from rig import BLOCK_TOKENS, DaemonCase, chain, until
from terrace_kv import Invalid, NotFound, Tier
from terrace_kv.residency import (
    Changes,
    Complete,
    Lost,
    Reset,
    Residents,
    daemon_events,
    daemon_overlap,
)


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


if __name__ == "__main__":
    unittest.main()
