"""The connector's two sides against a real daemon, and the test as vLLM's scheduler."""

import time
import unittest

import numpy as np

from rig import BLOCK_TOKENS, PATIENCE_S, Daemon, DaemonCase, chain, content, until
from terrace_kv import Invalid, Tier
from terrace_kv.vllm.hints import RequestHints
from vllm_engine import Engine, EngineCase

# What a step may take here beside the calls that are never waited for, in seconds.
STEP_S_MAX = 0.1


class LifeTest(EngineCase, DaemonCase):
    def test_blocks_come_back(self):
        engine, hashes = self.engine(), chain(8, seed=1)
        first = engine.request(hashes, RequestHints(session="agent"))
        self.assertEqual(engine.matched(first), 0)
        engine.compute(first, range(8), seed=1)
        self.assertEqual(engine.blocks.held(), set(range(8)))
        engine.settle()
        engine.finish(first, range(8))
        second = engine.request(hashes)
        # vLLM has two blocks of it itself.
        tokens = engine.matched(second, 2 * BLOCK_TOKENS)
        self.assertEqual(tokens, 6 * BLOCK_TOKENS)
        slots = [0, 1, *range(40, 46)]
        self.assertEqual(engine.load(second, tokens, slots), set())
        engine.check(slots, seed=1)
        self.assertEqual(engine.side.sources(second, tokens), {Tier.DRAM: tokens})
        # All of it is in the daemon: nothing is offered.
        engine.compute(second, slots, seed=1)
        self.assertEqual(engine.blocks.held(), set())
        self.assertEqual(
            engine.finish(second, slots), {"loaded_tokens": tokens, "tiers": {"dram": tokens}}
        )
        counts = engine.side.take_counts()
        self.assertEqual((counts["offered_blocks"], counts["loaded_tokens_dram"]), (8, tokens))
        until(lambda: engine.client.status().leases == 0, "its lease ended with it")
        names = [one.session for one in engine.client.sessions().sessions]
        self.assertIn("agent", names)
        self.assertLess(engine.longest_step_s, STEP_S_MAX)

    def test_stores_hold_at_most_their_share(self):
        engine, hashes = self.engine(store_percent=10), chain(20, seed=2)
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(20), seed=2)
        self.assertEqual(engine.blocks.held(), set(range(6)))
        for _ in range(4):
            engine.settle()
            engine.compute(request, range(20), seed=2)
        engine.settle()
        engine.finish(request, range(20))
        self.assertEqual(engine.matched(engine.request(hashes)), 20 * BLOCK_TOKENS)

    def test_what_the_request_says_reaches_the_daemon(self):
        from terrace_kv import hints

        engine, hashes = self.engine(), chain(4, seed=3)
        wish = hints.Wish(priority=77)
        said = RequestHints(
            session="child", directives=(hints.Directive(wish),),
            before=[hints.SessionStart("child", "parent")], final=True,
            envelope=hints.envelope([hints.SessionStart("other")], "m"),
        )  # fmt: skip
        request = engine.request(hashes, said)
        engine.matched(request)
        engine.compute(request, range(4), seed=3)
        engine.settle()
        self.assertEqual(engine.client.inspect(hashes[0]).record.priority, 77)
        known = {one.session: one.parent for one in engine.client.sessions().sessions}
        self.assertEqual((known["child"], known["other"]), ("parent", ""))
        engine.finish(request, range(4))
        until(lambda: engine.client.inspect(hashes[0]).dead, "the session ended")

    def test_what_the_request_says_waits_for_a_busy_line(self):
        from terrace_kv import hints

        engine, later = self.engine(), []
        engine.asker._submit = lambda run: later.append(run) or True
        said = RequestHints(
            before=[hints.SessionStart("late", "lead")],
            envelope=hints.envelope([hints.SessionStart("later")], "m"),
        )
        engine.request(chain(4, seed=4), said)
        (ask,) = later
        ask()
        known = {one.session: one.parent for one in engine.client.sessions().sessions}
        self.assertEqual((known["late"], known["later"]), ("lead", ""))

    def test_a_device_that_takes_no_fence(self):
        engine, hashes = self.engine(), chain(4, seed=6)
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(4), seed=6)
        engine.settle()

        def broken() -> None:
            raise Invalid("the driver failed")

        engine.worker._fence = broken
        again = engine.request(hashes)
        failed = engine.load(again, engine.matched(again), range(10, 14))
        self.assertEqual(failed, set(range(10, 14)))
        engine.compute(again, range(10, 14), seed=6)
        engine.settle()

    def test_an_aborted_load_stores_nothing(self):
        engine, hashes = self.engine(), chain(4, seed=4)
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(4), seed=4)
        engine.settle()
        again = engine.request(hashes)
        tokens = engine.matched(again)
        engine.side.allocated(again, range(10, 14), tokens)
        # Its blocks hold nothing yet, whatever vLLM counts as computed.
        engine.finish(again, range(10, 14))
        self.assertEqual(engine.blocks.held(), set())

    def test_an_aborted_load_of_another_connectors_stores_nothing(self):
        engine = self.engine()
        for seed, computed_blocks in ((7, 0), (8, 2)):
            request = engine.request(chain(4, seed))
            engine.matched(request)
            if computed_blocks:
                # Then it was preempted.
                engine.side.allocated(request, (), 0)
                tokens = computed_blocks * BLOCK_TOKENS
                engine.side.computed(request.request_id, tokens, lambda _: range(4))
                engine.worker.begin(engine.side.take_step())
                engine.settle()
                self.assertEqual(engine.matched(request), tokens)
            # The other's load is under way, and vLLM counts all as computed.
            engine.side.allocated(request, (), 0)
            engine.finish(request, range(10, 14))
            self.assertEqual(engine.blocks.held(), set())

    def test_what_another_connector_loaded_is_stored(self):
        engine, hashes = self.engine(), chain(4, seed=9)
        request = engine.request(hashes)
        engine.matched(request)
        engine.side.allocated(request, (), 0)
        # Its load has ended: it gets its turn, with the same blocks.
        engine.side.allocated(request, (), 0)
        engine.compute(request, range(4), seed=9)
        engine.settle()
        engine.finish(request, range(4))
        self.assertEqual(engine.matched(engine.request(hashes)), 4 * BLOCK_TOKENS)


class FaultTest(EngineCase):
    def setUp(self):
        self.daemon = Daemon()
        self.addCleanup(self.daemon.close)

    def stored(self, engine: Engine, hashes, seed: int) -> None:
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(len(hashes)), seed)
        engine.settle()
        engine.finish(request)

    def test_no_daemon_until_it_comes(self):
        engine, hashes = self.engine(), chain(4, seed=1)
        request = engine.request(hashes)
        self.assertEqual(engine.matched(request), 0)
        engine.compute(request, range(4), seed=1)
        engine.settle()
        engine.finish(request, range(4))
        self.assertLess(engine.longest_step_s, STEP_S_MAX)
        self.daemon.start()
        self.assertTrue(engine.client.wait_connected(PATIENCE_S))
        until(lambda: engine.worker._client.connected, "the worker is there")
        self.stored(engine, hashes, seed=1)
        self.assertEqual(engine.matched(engine.request(hashes)), 4 * BLOCK_TOKENS)

    def test_a_daemon_that_dies_between_lookup_and_load(self):
        self.daemon.start()
        engine, hashes = self.engine(), chain(4, seed=2)
        self.stored(engine, hashes, seed=2)
        request = engine.request(hashes)
        tokens = engine.matched(request)
        self.assertEqual(tokens, 4 * BLOCK_TOKENS)
        self.daemon.kill()
        failed = engine.load(request, tokens, range(10, 14))
        self.assertEqual(failed, set(range(10, 14)))
        # It is not asked for again, and what is computed now is offered once there is a daemon.
        self.assertEqual(engine.matched(request), 0)
        engine.settle()
        self.assertLess(engine.longest_step_s, STEP_S_MAX)

    def test_a_daemon_that_is_stopped(self):
        """Requests go on within their bounds; slots it may touch stay held until it is known to
        have let go of them."""
        self.daemon.start()
        engine = self.engine(lookup_timeout_s=0.3)
        self.stored(engine, chain(4, seed=3), seed=3)
        request = engine.request(chain(4, seed=3))
        tokens = engine.matched(request)
        writer = engine.request(chain(2, seed=4))
        self.assertEqual(engine.matched(writer), 0)
        self.daemon.freeze()
        began = time.monotonic()
        failed = engine.load(request, tokens, range(10, 14))
        self.assertEqual(failed, set(range(10, 14)))
        engine.compute(writer, range(20, 22), seed=4)
        engine.hear()
        late = engine.request(chain(3, seed=3))
        self.assertEqual(engine.matched(late), 0)
        self.assertLess(time.monotonic() - began, 3.0)
        held = engine.blocks.held()
        self.assertLessEqual(set(range(10, 14)), held)
        time.sleep(1.5)
        engine.hear()
        self.assertEqual(engine.blocks.held(), held, "it may go on at any time")
        self.daemon.thaw()
        engine.settle()
        until(lambda: engine.client.connected and engine.asker.available(), "it is back")
        self.assertEqual(engine.matched(engine.request(chain(4, seed=3))), 4 * BLOCK_TOKENS)
        self.assertLess(engine.longest_step_s, STEP_S_MAX)

    def test_a_copy_that_is_corrupt_is_computed_again(self):
        nvme = {"nvme-enabled": "true", "nvme-capacity": "64MiB", "nvme-engine": "blocking"}
        self.daemon = Daemon(**nvme, **{"dram-capacity": "0", "dram-staging": "64MiB"})
        self.addCleanup(self.daemon.close)
        self.daemon.start()
        engine, hashes = self.engine(), chain(6, seed=5)
        self.stored(engine, hashes, seed=5)
        self.corrupt(content(engine.space, 6, seed=5)[3])
        request = engine.request(hashes)
        tokens = engine.matched(request)
        self.assertEqual(tokens, 6 * BLOCK_TOKENS)
        failed = engine.load(request, tokens, range(10, 16))
        self.assertEqual(failed, {13})
        engine.check(range(10, 13), seed=5)
        # While a lease holds the chain, what is left of it behind the bad block stands in the way.
        until(lambda: engine.client.status().leases == 0, "the lease was given back")
        # vLLM computes it, and the daemon gets it again.
        engine.compute(request, range(10, 16), seed=5)
        engine.settle()
        self.assertEqual(engine.matched(engine.request(hashes)), 6 * BLOCK_TOKENS)

    def corrupt(self, block: np.ndarray) -> None:
        """Changes a bit of one block where it lies on the disk."""
        wanted = block.tobytes()[:4096]
        found = 0
        for path in (one for one in self.daemon.folder.rglob("*") if one.is_file()):
            at = path.read_bytes().find(wanted)
            if at >= 0:
                with path.open("r+b") as file:
                    file.seek(at + 100)
                    file.write(bytes([wanted[100] ^ 1]))
                found += 1
        self.assertEqual(found, 1)


if __name__ == "__main__":
    unittest.main()
