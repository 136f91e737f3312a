"""Jobs that wait for their turn, and what becomes of those whose turn does not come."""

import unittest
from unittest import mock

from rig import DaemonCase, chain
from terrace_kv.vllm import line, worker
from terrace_kv.vllm.jobs import Load, Store
from terrace_kv.vllm.line import UNDER_WAY_MAX, Line
from vllm_engine import Engine, EngineCase


def load(number: int) -> Load:
    return Load(number, "r", 1, b"", (1,))


def store(number: int) -> Store:
    return Store(number, 1, b"", (2,), None, None, ())


class LineTest(unittest.TestCase):
    def test_loads_go_first_and_each_kind_in_its_order(self):
        jobs = Line()
        for job in (store(1), store(2), load(3), store(4), load(5)):
            self.assertTrue(jobs.add(job))
        self.assertEqual([jobs.begin().number for _ in range(5)], [3, 5, 1, 2, 4])
        self.assertFalse(jobs.may_begin())

    def test_stores_under_way_hold_up_no_load(self):
        jobs, first = Line(), store(0)
        for number in range(UNDER_WAY_MAX + 1):
            jobs.add(store(number))
        for _ in range(UNDER_WAY_MAX):
            jobs.begin()
        self.assertFalse(jobs.may_begin())
        jobs.add(load(500))
        self.assertEqual(jobs.begin().number, 500)
        self.assertFalse(jobs.may_begin())
        jobs.over(first)
        self.assertEqual(jobs.begin().number, UNDER_WAY_MAX)

    def test_the_line_is_bounded_for_each_kind_by_itself(self):
        jobs, offered = Line(), (store(1), store(2), store(3), load(4), load(5), load(6))
        with mock.patch.object(line, "_WAITING_MAX", 2):
            self.assertEqual([jobs.add(one) for one in offered], [1, 1, 0, 1, 1, 0])
        self.assertEqual([one.number for one in jobs.withdraw({2, 3, 5})], [5, 2])
        self.assertEqual([jobs.begin().number for _ in range(2)], [4, 1])
        self.assertFalse(jobs.may_begin())


class WaitingTest(EngineCase, DaemonCase):
    def stored(self, engine: Engine, hashes) -> None:
        request = engine.request(hashes)
        engine.matched(request)
        engine.compute(request, range(len(hashes)))
        engine.settle()
        engine.finish(request)

    def test_a_load_whose_turn_does_not_come_ends_no_session(self):
        engine, hashes = self.engine(load_timeout_s=0.3), chain(4, seed=1)
        self.stored(engine, hashes)
        epoch = engine.worker._client.epoch
        request = engine.request(hashes)
        tokens = engine.matched(request)
        with (
            mock.patch.object(line, "UNDER_WAY_MAX", 0),
            mock.patch.object(worker, "_LOAD_SLACK_S", 0.0),
        ):
            failed = engine.load(request, tokens, range(10, 14))
        self.assertEqual(failed, set(range(10, 14)))
        self.assertEqual(engine.worker._client.epoch, epoch)
        # Nothing is left alone for that: the next load is begun at once.
        again = engine.request(hashes)
        self.assertEqual(engine.load(again, engine.matched(again), range(20, 24)), set())


if __name__ == "__main__":
    unittest.main()
