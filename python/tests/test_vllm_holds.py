"""Which slots a daemon may still touch: the worker's ledger, and the scheduler's holds."""

import unittest

from terrace_kv.vllm.holds import Holds
from terrace_kv.vllm.jobs import Load, Over, Report, Store
from terrace_kv.vllm.ledger import GRACE_S, Daemon, Ledger
from vllm_rig import Pool


def load(number: int, request: str = "r", slots=(1, 2)) -> Load:
    return Load(number, request, 1, b"", slots)


def store(number: int, slots=(5,)) -> Store:
    return Store(number, 1, b"", slots, None, None, ())


HERE, GONE, AWAY = Daemon(7, False), Daemon(None, True), Daemon(None, False)


class LedgerTest(unittest.TestCase):
    def ledger(self, *jobs, epoch=7) -> Ledger:
        ledger = Ledger()
        for job in jobs:
            ledger.add(job, overdue_at=5.0)
        for job in jobs:
            ledger.begun(job.number, epoch, overdue_at=10.0)
        return ledger

    def test_a_request_waits_for_all_its_loads(self):
        ledger = self.ledger(load(1), load(2, slots=(3, 4)))
        ledger.ended(1, ())
        self.assertEqual(ledger.take_finished(), set())
        ledger.ended(2, (1,))
        self.assertEqual((ledger.take_finished(), ledger.take_failed_slots()), ({"r"}, {4}))
        report = ledger.take_report()
        self.assertEqual((set(report.over), report.failed_requests), ({1, 2}, {"r"}))
        self.assertFalse(ledger.take_report())

    def test_one_that_was_never_begun_is_over_at_once(self):
        ledger = self.ledger(load(1), store(2))
        ledger.never_begun(1, missed=True)
        ledger.never_begun(2, missed=False)
        self.assertEqual(ledger.take_failed_slots(), {1, 2})
        self.assertEqual(
            ledger.take_report().over, {1: Over(1, 0, missed=True), 2: Over(1, 0, refused=True)}
        )
        self.assertEqual(len(ledger), 0)

    def test_a_load_without_an_end_is_given_up_and_its_slots_linger(self):
        ledger = self.ledger(load(1))
        self.assertFalse(ledger.overdue(9.9, begun=True))
        self.assertEqual(ledger.overdue(10.0, begun=True), {1})
        ledger.lost(1)
        ledger.lost(1)
        self.assertEqual((ledger.take_finished(), ledger.take_failed_slots()), ({"r"}, {1, 2}))
        report = ledger.take_report()
        self.assertEqual((report.lingering, report.over), ({1}, {}))
        self.assertFalse(ledger.overdue(11.0, begun=True))

    def test_the_time_of_a_job_begins_with_its_turn(self):
        ledger = Ledger()
        ledger.add(load(1), overdue_at=5.0)
        ledger.add(load(2, slots=(3,)), overdue_at=5.0)
        ledger.begun(1, 7, overdue_at=14.0)
        self.assertEqual(ledger.overdue(6.0, begun=False), {2})
        self.assertFalse(ledger.overdue(13.9, begun=True))
        self.assertEqual(ledger.overdue(14.0, begun=True), {1})

    def check_proof(self, states, over: bool) -> None:
        ledger = self.ledger(store(1))
        ledger.lost(1)
        for now, daemon in states:
            ledger.look(now, daemon)
        expected = {1: Over(1, 0, missed=True)} if over else {}
        self.assertEqual(ledger.take_report().over, expected, states)

    def test_slots_come_free_only_with_proof_and_after_a_grace(self):
        later, long = Daemon(8, False), GRACE_S + 0.1
        self.check_proof([(0, later)], over=False)
        self.check_proof([(0, later), (GRACE_S / 2, later)], over=False)
        self.check_proof([(0, later), (long, later)], over=True)
        self.check_proof([(0, GONE), (long, GONE)], over=True)
        # The same session, or one that is merely away, proves nothing, however long.
        self.check_proof([(0, HERE), (1000, HERE)], over=False)
        self.check_proof([(0, AWAY), (1000, AWAY)], over=False)
        self.check_proof([(0, GONE), (0.5, AWAY), (long, GONE)], over=False)

    def test_an_end_that_is_heard_late_is_proof_too(self):
        ledger = self.ledger(load(1))
        ledger.lost(1)
        ledger.take_finished(), ledger.take_failed_slots()
        ledger.ended(1, ())
        self.assertEqual(set(ledger.take_report().over), {1})
        # The request went on meanwhile: it hears nothing twice.
        self.assertEqual(ledger.take_finished(), set())


class HoldsTest(unittest.TestCase):
    def setUp(self):
        self.now, self.steps = 0.0, 0
        self.holds = Holds(2, lambda: self.now, self.sleep)
        self.pool = self.holds.pool = Pool(10)

    def test_a_store_is_held_until_every_rank_is_through(self):
        self.holds.add(1, (3, 4), take=True)
        self.assertEqual(self.pool.held(), {3, 4})
        self.assertEqual(self.holds.update(Report({1: Over(1, 1, missed=True)})), {})
        self.assertEqual(self.pool.held(), {3, 4})
        # What all ranks keep, whichever was heard of first.
        over = self.holds.update(Report({1: Over(1, 2)}))
        self.assertEqual(over, {1: Over(2, 1, missed=True)})
        # The chain's end first: it is what vLLM may reuse first.
        self.assertEqual((self.pool.held(), self.pool.freed), (set(), [4, 3]))

    def test_a_load_is_held_only_when_it_lingers(self):
        self.holds.add(1, (3,), take=False)
        self.assertEqual(self.pool.held(), set())
        self.holds.update(Report(lingering={1}))
        self.holds.update(Report(lingering={1}))
        self.assertEqual(self.pool.blocks[3].ref_cnt, 1)
        self.holds.update(Report({1: Over(2, 0)}))
        self.assertEqual((self.pool.held(), len(self.holds)), (set(), 0))
        self.assertEqual(self.holds.update(Report({1: Over(2, 0)})), {})

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def idle(self, most_s: float) -> float:
        """How long an engine without requests goes on asking the workers, at most so long."""
        began = self.now
        while self.now < began + most_s and self.holds.worth_stepping():
            self.holds.stepped()
            self.steps += 1
            self.now += 0.001
        return self.now - began

    def test_an_idle_engine_asks_for_as_long_as_an_end_may_come(self):
        self.assertEqual(self.idle(1.0), 0.0)
        self.holds.add(1, (3,), take=True)
        self.assertGreaterEqual(self.idle(0.5), 0.5)
        self.assertGreater(self.steps, 400)
        self.now, self.steps = 10.0, 0
        self.assertGreaterEqual(self.idle(10.0), 10.0)
        # Without spinning.
        self.assertLess(self.steps, 600)
        self.holds.update(Report({1: Over(2, 1)}))
        self.assertEqual(self.idle(1.0), 0.0)

    def test_nor_does_it_keep_others_waiting_for_its_steps(self):
        for alone in (True, False):
            self.holds = Holds(2, lambda: self.now, self.sleep, alone=alone)
            self.holds.pool = Pool(10)
            self.holds.add(1, (3,), take=True)
            self.now, self.steps = self.now + 2.0, 0
            self.assertGreaterEqual(self.idle(10.0), 10.0)
            self.assertEqual(self.steps < 600, alone, self.steps)

    def test_but_of_a_daemon_that_is_stuck_when_it_is_woken_up(self):
        self.holds.add(1, (3,), take=True)
        self.assertAlmostEqual(self.idle(1000.0), 130.0, delta=1.0)
        for _ in range(2):
            self.now += 100.0
            self.assertAlmostEqual(self.idle(1000.0), 2.5, delta=0.1)
            self.assertEqual(self.idle(1000.0), 0.0)

    def test_a_load_that_lingers_counts_from_then_on(self):
        self.holds.add(1, (3,), take=False)
        self.now = 1000.0
        self.assertEqual(self.idle(1.0), 0.0)
        self.holds.update(Report(lingering={1}))
        self.assertGreaterEqual(self.idle(100.0), 100.0)

    def test_vllm_waits_a_moment_for_blocks_that_come_free(self):
        self.assertFalse(self.holds.may_free_soon())
        self.holds.add(1, (3,), take=True)
        self.assertTrue(self.holds.may_free_soon())
        self.now = 1.0
        self.assertFalse(self.holds.may_free_soon())

    def test_but_for_none_that_a_running_request_has(self):
        self.pool.touch(self.pool.blocks[:4])
        self.holds.add(1, (2, 3), take=True)
        self.assertFalse(self.holds.may_free_soon())
        # Preempted, or over: its prefix may be another's as well.
        self.pool.free_blocks(self.pool.blocks[1:4])
        self.assertTrue(self.holds.may_free_soon())

    def test_reports_of_ranks_add_up(self):
        first = Report({1: Over(1, 5), 2: Over(1, 1)}, {7}, {"a"})
        both = first.merge(Report({1: Over(1, 3)}, set(), {"b"}))
        self.assertEqual(both.over, {1: Over(2, 3), 2: Over(1, 1)})
        self.assertEqual((both.lingering, both.failed_requests), ({7}, {"a", "b"}))


if __name__ == "__main__":
    unittest.main()
