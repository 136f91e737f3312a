"""Blocks of the daemon's HBM tier, read where they lie."""

import unittest
from dataclasses import replace

import numpy as np

from rig import Daemon, DaemonCase, chain, content, namespace
from terrace_kv import AsyncClient, Client, CudaExport, HbmMemory, Invalid, Precondition, Tier
from terrace_kv.lent import Borrowed


class LentTest(DaemonCase):
    settings = {"hbm-capacity": "64MiB"}  # noqa: RUF012

    def test_what_is_borrowed_is_read_in_place(self):
        engine = self.engine()
        hashes = chain(12, seed=300)
        engine.store(hashes, seed=300)
        self.assertEqual(set(engine.client.lookup(hashes, request=3).tiers()), {Tier.HBM})
        memory = engine.client.hbm()
        self.assertEqual((memory.length_bytes, memory.cuda), (64 << 20, None))
        lent = engine.client.borrow(hashes, request=3)
        with self.assertRaisesRegex(Invalid, "another connection"):
            memory.pages(replace(lent, epoch=lent.epoch + 1), 0)
        self.assertEqual((sorted(lent.starts), lent.clipped_blocks), (list(range(12)), 0))
        self.assertEqual(lent.epoch, engine.client.epoch)
        expected = content(engine.space, 12, seed=300)
        for index in range(12):
            pages = memory.pages(lent, index)
            np.testing.assert_array_equal(pages[0], expected[index])
            self.assertFalse(pages.flags.writeable)
        self.assertEqual(engine.client.give_back(3), 12)
        self.assertEqual(engine.client.give_back(3), 0)

    def test_what_is_not_here_is_not_lent(self):
        engine = self.engine()
        lent = engine.client.borrow(chain(3, seed=330), request=1)
        self.assertEqual((dict(lent.starts), lent.clipped_blocks), ({}, 0))
        with self.assertRaises(Invalid):
            engine.client.borrow([b"short"], request=1)

    def test_memory_on_a_gpu_is_not_mapped(self):
        on_gpu = HbmMemory(namespace(), 64 << 20, CudaExport(bytes(16), bytes(64)), None, 1)
        with self.assertRaisesRegex(Invalid, "on a GPU"):
            on_gpu.pages(Borrowed({0: 0}, 0, 0, 0, 0, 1), 0)


class FullTierTest(DaemonCase):
    """A tier of one chunk, which holds blocks of one length only."""

    settings = {"hbm-capacity": "64MiB"}  # noqa: RUF012

    def test_what_is_lent_outlives_what_pushes_everything_else_out(self):
        # Blocks of 1.5 MiB: the tier has room for 42, and lends a quarter.
        engine = self.engine(page_bytes=256 << 10)
        hashes = chain(4, seed=310)
        engine.store(hashes, seed=310)
        lent = engine.client.borrow(hashes, request=1)
        self.assertEqual(len(lent.starts), 4)
        for seed in range(311, 315):
            engine.store(chain(16, seed=seed), seed=seed)
        memory = engine.client.hbm()
        expected = content(engine.space, 4, seed=310)
        for index in range(4):
            np.testing.assert_array_equal(memory.pages(lent, index)[0], expected[index])
        engine.client.end_request(1)
        self.assertEqual(engine.client.give_back(1), 0)

    def test_more_than_a_quarter_is_clipped(self):
        engine = self.engine(page_bytes=256 << 10)
        hashes = chain(20, seed=320)
        engine.store(hashes, seed=320)
        lent = engine.client.borrow(hashes, request=1)
        self.assertEqual((len(lent.starts), lent.clipped_blocks), (10, 10))
        with self.assertRaisesRegex(Invalid, "block 19 was not lent"):
            engine.client.hbm().pages(lent, 19)


class WithoutTheTier(DaemonCase):
    def test_it_says_so(self):
        with Client(self.daemon.socket, client_id="none", namespace=namespace()) as client:
            for call in (client.hbm, lambda: client.borrow(chain(1), request=1)):
                with self.assertRaisesRegex(Precondition, "no HBM tier"):
                    call()
            self.assertEqual(client.give_back(1), 0)
            # The session goes on.
            self.assertEqual(client.lookup(chain(1)).matched_blocks, 0)


class LentAsyncTest(unittest.IsolatedAsyncioTestCase):
    async def test_the_same_with_await(self):
        daemon = Daemon(**{"hbm-capacity": "64MiB"})
        self.addCleanup(daemon.close)
        daemon.start()
        async with await AsyncClient.connect(
            daemon.socket, client_id="aio", namespace=namespace()
        ) as client:
            self.assertEqual((await client.hbm()).length_bytes, 64 << 20)
            self.assertEqual(dict((await client.borrow(chain(1), request=2)).starts), {})
            self.assertEqual(await client.give_back(2), 0)


if __name__ == "__main__":
    unittest.main()
