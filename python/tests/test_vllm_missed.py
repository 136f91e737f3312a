"""Stores that a rank missed: the daemon's absence costs the blocks after them nothing."""

import time
import unittest
from unittest import mock

from rig import BLOCK_TOKENS, Daemon, chain, until
from terrace_kv.vllm import scheduler
from vllm_engine import Engine, EngineCase


class MissedTest(EngineCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)
        self.daemon.start()

    def step(self, engine: Engine, request, blocks: int) -> None:
        tokens = blocks * BLOCK_TOKENS
        engine.side.computed(request.request_id, tokens, lambda _: range(blocks))
        engine.worker.begin(engine.side.take_step())
        engine.hear()

    def until_stored(self, engine: Engine, request, hashes) -> None:
        """Steps in which nothing new is computed."""

        def stored() -> bool:
            self.step(engine, request, len(hashes))
            return engine.matched(engine.request(hashes)) == len(hashes) * BLOCK_TOKENS

        until(stored, "all blocks are stored")

    def test_what_a_rank_missed_is_offered_again_once_it_asks_again(self):
        engine, hashes = self.engine(), chain(16, seed=1)
        request = engine.request(hashes)
        engine.matched(request)
        self.step(engine, request, 4)
        engine.settle()
        engine.worker._pause()
        self.assertTrue(engine.asker.available())
        self.step(engine, request, 5)
        self.until_stored(engine, request, hashes)
        self.assertNotIn("dropped_blocks", engine.worker.take_counts())
        self.assertNotIn("dropped_blocks", engine.side.take_counts())

    def test_but_not_at_every_step(self):
        engine, hashes = self.engine(pause_s=600.0), chain(4, seed=2)
        request = engine.request(hashes)
        engine.matched(request)
        engine.worker._pause()
        with mock.patch.object(scheduler, "_MISSED_S", 600.0):
            for _ in range(20):
                self.step(engine, request, 4)
        self.assertEqual(engine.side.take_counts()["offered_blocks"], 4)
        # The last chance, and nothing came of that.
        engine.finish(request, range(4))
        engine.settle()
        self.assertEqual(engine.side.take_counts()["dropped_blocks"], 4)

    def test_what_a_daemon_that_was_killed_had_is_offered_to_the_next(self):
        engine, hashes = self.engine(), chain(16, seed=5)
        request = engine.request(hashes)
        engine.matched(request)
        self.step(engine, request, 8)
        engine.settle()
        self.daemon.kill()
        self.daemon.start()
        connected = lambda: engine.worker._client.connected  # noqa: E731
        until(lambda: engine.asker.available() and connected(), "both sides are back")
        for blocks in range(9, 17):
            self.step(engine, request, blocks)
        self.until_stored(engine, request, hashes)

    def test_a_rank_that_comes_back_later_than_the_scheduler(self):
        engine, hashes = self.engine(), chain(16, seed=3)
        request = engine.request(hashes)
        engine.matched(request)
        connection = engine.worker._client._connection
        register = connection._register_again

        def slow(*given) -> None:
            time.sleep(0.5)
            register(*given)

        connection._register_again = slow
        self.daemon.kill()
        self.daemon.start()
        for blocks in range(4, 17):
            self.step(engine, request, blocks)
            time.sleep(0.05)
        self.until_stored(engine, request, hashes)


if __name__ == "__main__":
    unittest.main()
