"""What the scheduler knows of a lookup, and when it asks anew."""

import time
import unittest
from unittest import mock

from rig import BLOCK_TOKENS, DaemonCase, chain, until
from terrace_kv import Run, Tier
from terrace_kv.vllm import lookups
from terrace_kv.vllm.lookups import NOTHING, Found, Question
from vllm_engine import EngineCase


class LookupsTest(unittest.TestCase):
    def test_tiers_of_a_stretch(self):
        runs = (Run(Tier.DRAM, 3, 0), Run(Tier.NVME, 4, 0), Run(Tier.DRAM, 2, 0))
        found = Found(9, runs, 9, 0.0)
        for start, end, counts in (
            (0, 9, {Tier.DRAM: 5, Tier.NVME: 4}), (3, 7, {Tier.NVME: 4}),
            (2, 4, {Tier.DRAM: 1, Tier.NVME: 1}), (5, 5, {}), (8, 20, {Tier.DRAM: 1}),
        ):  # fmt: skip
            self.assertEqual(found.tiers(start, end), counts)

    def test_a_question_is_given_up_in_time(self):
        question = Question(give_up_at=5.0)
        self.assertIsNone(question.poll(4.9))
        self.assertEqual(question.poll(5.0).blocks, 0)
        self.assertFalse(question.is_stale(14.9))
        self.assertTrue(question.is_stale(15.0))

    def test_answers_grow_stale(self):
        for found, good_s in (
            (Found(1, (), 1, time.time() + 30.0), 28.0),
            (Found(1, (), 1, time.time() + 1.0), -1.0),
            (Found(0, (), 0, None), 10.0), (NOTHING, 10.0),
        ):  # fmt: skip
            question = Question(give_up_at=0.0)
            question.answered(found)
            now = time.monotonic()
            self.assertFalse(question.is_stale(now + good_s - 0.5), found)
            self.assertTrue(question.is_stale(now + good_s + 0.5), found)


class TurnTest(EngineCase, DaemonCase):
    """A request that waits long for its turn in vLLM's queue."""

    settings = {"leases-ttl": "2500ms"}  # noqa: RUF012

    def stored(self, engine, hashes) -> None:
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(len(hashes)))
        engine.settle()
        engine.finish(request)

    def leases(self, engine) -> int:
        return engine.client.status().leases

    def test_what_is_held_no_longer_is_asked_for_anew(self):
        engine, hashes = self.engine(), chain(4, seed=1)
        self.stored(engine, hashes)
        until(lambda: not self.leases(engine), "nothing is held")
        waiting = engine.request(hashes)
        until(lambda: self.leases(engine) == 1, "it was answered")
        until(lambda: not self.leases(engine), "the lease is over")
        self.assertEqual(engine.matched(waiting), 4 * BLOCK_TOKENS)
        self.assertEqual(self.leases(engine), 1)
        self.assertEqual(engine.load(waiting, 4 * BLOCK_TOKENS, range(10, 14)), set())

    def test_so_is_what_was_not_there(self):
        engine, hashes = self.engine(), chain(4, seed=2)
        with mock.patch.object(lookups, "_AGE_S_MAX", 0.05):
            waiting = engine.request(hashes)
            until(lambda: waiting_for(engine, waiting).over, "it was answered")
        self.stored(engine, hashes)
        until(lambda: waiting_for(engine, waiting).is_stale(time.monotonic()), "it is old")
        self.assertEqual(engine.matched(waiting), 4 * BLOCK_TOKENS)

    def test_leases_shorter_than_a_step_hold_nobody_up(self):
        engine, hashes = self.engine(), chain(4, seed=3)
        self.stored(engine, hashes)
        with mock.patch.object(lookups, "_LEASE_S_MIN", 60.0):
            request = engine.request(hashes)
            for _ in range(3):
                until(lambda: waiting_for(engine, request).over, "it was answered")
                self.assertIsNone(engine.side.matched(request, 0))
            until(lambda: waiting_for(engine, request).over, "it was answered")
            self.assertEqual(engine.side.matched(request, 0), 4 * BLOCK_TOKENS)

    def test_an_engine_that_only_stores_holds_and_lifts_nothing(self):
        engine, hashes = self.engine(loads=False), chain(6, seed=7)
        self.stored(engine, hashes[:4])
        engine.request(chain(2, seed=8))
        lookup, queued = engine.client.lookup, []

        def noted(*args, **named):
            queued.append(named["queued"])
            return lookup(*args, **named)

        with mock.patch.object(engine.client, "lookup", noted):
            request = engine.request(hashes)
            until(lambda: waiting_for(engine, request).over, "an answer")
        self.assertEqual((engine.matched(request), {*queued}), (0, {False}))
        until(lambda: not self.leases(engine), "it holds nothing")
        engine.side.take_counts()
        engine.compute(request, range(6))
        engine.settle()
        self.assertEqual(engine.side.take_counts()["offered_blocks"], 2)

    def test_nor_does_it_wait_for_an_answer(self):
        engine, later = self.engine(loads=False), []
        engine.asker._submit = lambda run: later.append(run) or True
        self.assertEqual(engine.side.matched(engine.request(chain(4, seed=9)), 0), 0)


def waiting_for(engine, request) -> Question:
    return engine.side._requests[request.request_id].question


if __name__ == "__main__":
    unittest.main()
