"""Blocks through a real daemon, byte by byte: store, lookup, load, leases, completions."""

import gc
import os
import threading
import unittest

import numpy as np

from rig import DaemonCase, chain, content, namespace, until
from terrace_kv import (
    Client,
    HostPool,
    NotFound,
    OpKind,
    PageLayout,
    Tier,
    Welcome,
    daemon_status,
)
from terrace_kv.hashing import ExtraKeys
from terrace_kv.hints import Directive, Wish


class DataTest(DaemonCase):
    def test_blocks_come_back_from_every_layout(self):
        # Also out of one layout into the other: what is stored has none.
        paged = self.engine("paged")
        together = self.engine("contiguous", order=PageLayout.contiguous)
        for number, (writer, reader) in enumerate(
            [(paged, paged), (together, together), (paged, together), (together, paged)]
        ):
            hashes = chain(12, seed=100 + number)
            stored = writer.store(hashes, seed=number)
            self.assertEqual((stored.taken_blocks, stored.present_blocks), (12, 0))
            reader.check(hashes, seed=number)

    def test_a_layout_with_gaps(self):
        engine = self.engine()
        space = engine.space
        tight = PageLayout.paged(space, 8)
        gaps = PageLayout(8, 4096, 300_000, 100_000, 5000)
        self.assertGreater(gaps.end_bytes(space), tight.end_bytes(space))
        with HostPool.create(space, 8, gaps) as pool:
            handle = engine.client.register_pool(pool)
            pool.view()[:4] = content(space, 4, seed=5)
            hashes = chain(4, seed=5)
            self.assertTrue(engine.client.store(hashes, handle, range(4)).op.result().ok)
            engine.check(hashes, seed=5)

    def test_scattered_slots_and_arrays_of_them(self):
        engine = self.engine()
        hashes = chain(5, seed=6)
        slots = np.array([40, 3, 17, 63, 0], dtype=np.int64)
        engine.pool.view()[slots] = content(engine.space, 5, seed=6)
        self.assertTrue(engine.client.store(hashes, engine.handle, slots).op.result().ok)
        engine.check(hashes, seed=6)

    def test_a_chain_in_pieces(self):
        engine = self.engine()
        hashes = chain(6, seed=7)
        pages = content(engine.space, 6, seed=7)
        for start in (0, 2, 4):
            engine.pool.view()[:2] = pages[start : start + 2]
            piece, parent = hashes[start : start + 2], hashes[start - 1] if start else None
            stored = engine.client.store(piece, engine.handle, [0, 1], parent=parent)
            self.assertEqual(stored.taken_blocks, 2)
            self.assertTrue(stored.op.result().ok)
        engine.check(hashes, seed=7)
        again = engine.store(hashes, seed=7)
        self.assertEqual((again.taken_blocks, again.present_blocks), (0, 6))

    def test_a_piece_whose_parent_is_not_here_is_dropped(self):
        engine = self.engine()
        hashes = chain(4, seed=8)
        stored = engine.client.store(hashes[2:], engine.handle, [0, 1], parent=hashes[1])
        self.assertEqual(stored.dropped_blocks, 2)
        stored.op.result()
        self.assertEqual(engine.matched(hashes), 0)

    def test_a_lookup_says_where_and_holds_it(self):
        engine = self.engine()
        hashes = chain(8, seed=9)
        engine.store(hashes[:5])
        found = engine.client.lookup(hashes)
        self.assertEqual((found.matched_blocks, list(found.tiers())), (5, [Tier.DRAM] * 5))
        self.assertIsNotNone(found.lease_id)
        self.assertGreater(found.lease_expires_unix_us, 0)
        self.assertEqual(engine.client.inspect(hashes[4]).leases, 1)
        engine.client.release(found)
        self.assertEqual(engine.client.inspect(hashes[4]).leases, 0)
        with self.assertRaises(NotFound):
            engine.client.release(found)

    def test_the_end_of_a_request_ends_its_leases_and_says_what_it_used(self):
        engine = self.engine()
        hashes = chain(8, seed=10)
        engine.store(hashes[:5], request=1)
        engine.client.end_request(1)
        found = engine.client.lookup(hashes, request=2)
        engine.store(hashes, request=2)
        used = engine.client.end_request(2, output_tokens=7)
        self.assertEqual(used.read[Tier.DRAM], 5 * 16)
        self.assertEqual(used.read[Tier.NVME], 0)
        self.assertEqual((used.created_5m_tokens, used.uncached_tokens), (0, 3 * 16))
        with self.assertRaises(NotFound):
            engine.client.release(found)

    def test_clients_of_one_engine_speak_of_the_same_requests(self):
        space, hashes = namespace(), chain(4, seed=14)
        names = [f"{self.id()}/{part}" for part in ("scheduler", "rank-0")]
        socket, engine = self.daemon.socket, self.id()
        scheduler, rank = (
            Client(socket, client_id=name, namespace=space, engine=engine) for name in names
        )
        self.addCleanup(scheduler.close)
        self.addCleanup(rank.close)
        pool = HostPool.create(space, 4)
        self.addCleanup(pool.close)
        handle = rank.register_pool(pool)
        scheduler.lookup(hashes, request=5)
        wishes = [Directive(Wish(ttl_ms=300_000))]
        rank.store(hashes, handle, range(4), request=5, directives=wishes).op.result()
        used = scheduler.end_request(5)
        self.assertEqual((used.created_5m_tokens, used.uncached_tokens), (4 * 16, 0))

    def test_completions_of_many_operations_find_their_way(self):
        engine = self.engine()
        chains = [chain(2, seed=200 + number) for number in range(32)]
        for number in range(len(chains)):
            places = [2 * number, 2 * number + 1]
            engine.pool.view()[places] = content(engine.space, 2, seed=number)
        stores = [
            engine.client.store(hashes, engine.handle, [2 * n, 2 * n + 1], request=n).op
            for n, hashes in enumerate(chains)
        ]
        # The last first: each gets its own end, whatever the order.
        for number, op in reversed(list(enumerate(stores))):
            done = op.result()
            self.assertEqual((done.op_id, done.request_id), (op.op_id, number))
            self.assertEqual((done.kind, done.blocks, done.ok), (OpKind.STORE, 2, True))
        told = threading.Event()
        load = engine.client.load(chains[3], engine.handle, [0, 1], request=77)
        load.add_done_callback(lambda _: told.set())
        self.assertTrue(told.wait(10))
        self.assertEqual((load.result().kind, load.result().request_id), (OpKind.LOAD, 77))

    def test_blocks_that_are_not_there_fail_one_by_one(self):
        engine = self.engine()
        hashes = chain(4, seed=12)
        engine.store(hashes[:2])
        done = engine.client.load(hashes, engine.handle, range(4)).result()
        self.assertEqual((done.failed, done.ok), ((2, 3), False))
        np.testing.assert_array_equal(engine.pool.view()[:2], content(engine.space, 2))

    def test_two_ranks_make_a_block(self):
        engines = [self.engine(f"rank-{rank}", shard_count=2) for rank in range(2)]
        hashes = chain(3, seed=13)
        handles = [
            engine.client.register_pool(engine.pool, shard=rank)
            for rank, engine in enumerate(engines)
        ]
        stores = []
        for rank, engine in enumerate(engines):
            engine.pool.view()[:3] = content(engine.space, 3, seed=rank)
            stores.append(engine.client.store(hashes, handles[rank], range(3)).op)
        self.assertTrue(all(op.result().ok for op in stores))
        # A rank's store ends when its shard has landed; the block is found once it is sealed.
        until(lambda: engines[0].matched(hashes) == 3, "the blocks are whole")
        for rank, engine in enumerate(engines):
            self.assertTrue(engine.client.load(hashes, handles[rank], [9, 8, 7]).result().ok)
            expected = content(engine.space, 3, seed=rank)
            np.testing.assert_array_equal(engine.pool.view()[[9, 8, 7]], expected)

    def test_a_pool_of_other_blocks_is_refused(self):
        engine = self.engine()
        for wrong in ({"layers": 6}, {"page_bytes": 8192}, {"planes": 1}):
            with HostPool.create(namespace(**wrong), 4) as pool:
                with self.assertRaisesRegex(ValueError, f"pool's {next(iter(wrong))} is"):
                    engine.client.register_pool(pool)

    def test_a_value_that_does_not_fit_is_named(self):
        engine = self.engine()
        with self.assertRaisesRegex(ValueError, "request_id=-1 does not fit LookupRequest"):
            engine.client.lookup(chain(1), request=-1)
        with self.assertRaisesRegex(ValueError, r"slots=\[-1\] does not fit LoadRequest"):
            engine.client.load(chain(1), engine.handle, [-1])
        for wrong in (["a" * 32], [1], None):
            with self.assertRaisesRegex(ValueError, "block hashes are bytes"):
                engine.client.lookup(wrong)

    def test_what_only_one_side_salts_is_not_found(self):
        engine = self.engine()
        hashes = chain(3, seed=14)
        engine.store(hashes)
        salted = chain(3, seed=14, extra=ExtraKeys(cache_salt="mine"))
        self.assertEqual(engine.matched(salted), 0)
        other = self.engine("tenant", tenant_salt=b"other")
        self.assertEqual(other.matched(hashes), 0)
        done = other.client.load(hashes, other.handle, range(3)).result()
        self.assertEqual(done.failed, (0, 1, 2))
        self.assertEqual(engine.matched(hashes), 3)

    def test_every_field_of_a_namespace_separates(self):
        engine = self.engine()
        hashes = chain(2, seed=15)
        engine.store(hashes)
        for changed in ({"model": "x"}, {"revision": "2"}, {"dtype": "x"}, {"layout": "HND"},
                        {"layers": 4}, {"hash_scheme": "x"}, {"block_tokens": 32}):  # fmt: skip
            with self.subTest(changed):
                other = self.engine(str(changed), **changed)
                self.assertEqual(other.matched(hashes), 0)

    def test_names_are_the_daemons(self):
        engine = self.engine(model="digests")
        hashes = chain(2, seed=16)
        engine.store(hashes)
        block = engine.client.inspect(hashes[1])
        self.assertEqual(block.key, engine.space.key(hashes[1]))
        self.assertEqual(block.parent, engine.space.key(hashes[0]))
        self.assertEqual((block.namespace, block.model), (engine.space.digest(), "digests"))
        self.assertEqual((block.position, set(block.copies)), (1, {Tier.DRAM}))

    def test_a_client_says_who_it_is_and_what_the_daemon_holds(self):
        before = self.engine().client.status()
        with Client(self.daemon.socket, client_id="one more", namespace=namespace()) as client:
            self.assertIsInstance(client.welcome, Welcome)
            self.assertEqual(client.welcome.limits.transfer_blocks_max, 16384)
            status = client.status()
            self.assertEqual(status.clients, before.clients + 1)
            self.assertTrue(status.tiers[Tier.DRAM].present)
            self.assertFalse(status.tiers[Tier.NVME].present)
            self.assertIn("dram", status.facts)
            self.assertIsNone(status.tiers[Tier.DRAM].outage)

    def test_a_pool_that_was_taken_back(self):
        engine = self.engine()
        hashes = chain(2, seed=17)
        engine.store(hashes)
        engine.client.unregister_pool(engine.handle)
        with self.assertRaises(NotFound):
            engine.client.load(hashes, engine.handle, [0, 1])
        again = engine.client.register_pool(engine.pool)
        self.assertTrue(engine.client.load(hashes, again, [0, 1]).result().ok)

    def test_nothing_is_left_open(self):
        def memories():
            gc.collect()
            links = (os.path.join("/proc/self/fd", one) for one in os.listdir("/proc/self/fd"))
            return [os.readlink(one) for one in links if os.path.lexists(one)].count(
                "/memfd:terrace-pool (deleted)"
            )

        before, threads = memories(), threading.active_count()
        pools = daemon_status(self.daemon.socket).pools
        for _ in range(5):
            with Client(self.daemon.socket, client_id="short", namespace=namespace()) as client:
                with HostPool.create(namespace(), 4) as pool:
                    client.register_pool(pool)
                    self.assertEqual(client.status().pools, pools + 1)
                del pool
        del client
        self.assertEqual(memories(), before)
        until(lambda: threading.active_count() <= threads, "the clients' threads end")
        until(lambda: daemon_status(self.daemon.socket).pools == pools, "the pools are gone")


if __name__ == "__main__":
    unittest.main()
